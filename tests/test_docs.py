"""The pages say what is so: examples run, links lead somewhere, tables agree with the code."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import pkgutil
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from langgraph.checkpoint.sqlite import SqliteSaver

import walkv
from tests.laboratory import registry, report
from tests.support.runbook import make_store
from tests.support.sources import make_sources
from walkv import limits, testing
from walkv.cli import main
from walkv.cli.app import walkv_command
from walkv.engine import (
    batch,
    cipher,
    compaction,
    files,
    frame,
    keyring,
    manifest,
    picking,
    policies,
    segment,
    syncer,
    wal,
    writes,
)
from walkv.engine.keyring import Keyring, Secret
from walkv.engine.snapshot import SnapshotSummary, blocks, layout, writer
from walkv.ops.backing import listings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.glob("*.md")),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


pages = pytest.mark.parametrize("page", PAGES, ids=named)


# -- examples --------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A fenced block. ``language`` is what follows the fence: python, python continued, or sh."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def examples_of(page: Path) -> list[Example]:
    text = page.read_text()
    return [
        Example(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in FENCE.finditer(text)
    ]


def programs() -> list[list[Example]]:
    """Python examples, those that continue another one together with it."""
    found: list[list[Example]] = []
    for page in PAGES:
        for example in examples_of(page):
            if example.language == "python":
                found.append([example])
            elif example.language == "python continued":
                assert found, f"{example} continues nothing"
                assert found[-1][0].page == page, f"{example} continues another page"
                found[-1].append(example)
    return found


def scripts() -> list[Example]:
    """Shell examples made of the walkv command alone."""
    return [
        example
        for page in PAGES
        for example in examples_of(page)
        if example.language == "sh"
        and all(line.startswith("walkv ") for line in example.text.splitlines())
    ]


@pages
def test_every_example_is_of_a_kind_that_is_tested(page: Path) -> None:
    for example in examples_of(page):
        assert example.language in ("python", "python continued", "sh"), example
    assert page.read_text().count("```") == 2 * len(examples_of(page)), "a fence is not closed"


def test_there_are_examples() -> None:
    readme = ROOT / "README.md"
    assert sum(program[0].page == readme for program in programs()) >= 4
    assert {script.page for script in scripts()} >= {readme, DOCS / "cli.md"}


@pytest.mark.parametrize("program", programs(), ids=lambda program: str(program[0]))
def test_python_examples_run(
    program: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for example in program:
        # Blank lines before it, so that a traceback shows the line of the page.
        source = "\n" * example.line + example.text
        exec(compile(source, named(example.page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("script", scripts(), ids=str)
def test_shell_examples_run(
    script: Example,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "checkpoints.sqlite" in script.text:
        with SqliteSaver.from_conn_string("checkpoints.sqlite") as saver:
            checkpoint: Any = {"id": "1", "channel_values": {"n": 1}, "channel_versions": {"n": 1}}
            config: Any = {"configurable": {"thread_id": "ada", "checkpoint_ns": ""}}
            saver.put(config, checkpoint, {}, {})
    if script.page == DOCS / "operations.md":
        make_store(tmp_path)
    if "walkv import openai-agents" in script.text:
        make_sources(tmp_path)
    for line in script.text.splitlines():
        words = shlex.split(line)
        assert words[1] != "demo", "the demo takes too long for this test, and has its own"
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code in (0, None), f"{line}: {capfd.readouterr().err}"


def test_the_first_example_does_what_its_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = examples_of(ROOT / "README.md")[0]
    assert len(first.text.split("\n")) <= 12, "ten lines or so"
    test_python_examples_run([first], tmp_path, monkeypatch)
    assert capsys.readouterr().out == "b'user/1' b'Ada'\nb'user/2' b'Grace'\n"
    with walkv.open(tmp_path / "agent.walkv") as store:
        assert list(store.scan(keys_only=True)) == [b"seen/1", b"user/1", b"user/2"]


def test_set_up_takes_two_commands_with_extras_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if "-m venv" in line]
    assert len(commands) == 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for command, program in zip(commands, ("walkv demo", "pytest -q -n 2"), strict=True):
        make, install, run = command.split(" && ")
        assert make == "python3 -m venv .venv"
        extra = re.fullmatch(r"\.venv/bin/pip install -q -e '\.\[(\w+)\]'", install)
        assert extra is not None
        assert extra[1] in project["optional-dependencies"]
        assert run == f".venv/bin/{program}"
    for extra_name in re.findall(r"\.\[(\w+)\]", "".join(page.read_text() for page in PAGES)):
        assert extra_name in project["optional-dependencies"]


# -- links and names -------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What may follow a # in a link to a page, as GitHub makes it from the headings."""
    text = FENCE.sub("", page.read_text())
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for _, heading in HEADING.findall(text)]
    return {heading.replace(" ", "-") for heading in plain}


@pages
def test_links_lead_somewhere(page: Path) -> None:
    text = CODE_SPAN.sub("", FENCE.sub("", page.read_text()))
    for target in LINK.findall(text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = [target.partition("#")[0] for target in LINK.findall(page.read_text())]
        waiting += [(page.parent / target).resolve() for target in targets if "//" not in target]
    assert set(PAGES) <= seen


@pages
def test_files_and_folders_that_are_named_exist(page: Path) -> None:
    for span in CODE_SPAN.findall(page.read_text()):
        if re.fullmatch(r"(walkv|tests|docs|engine|benchmarks)/[\w/.-]*", span):
            places = [ROOT / span, ROOT / f"{span}.py", ROOT / "walkv" / span]
            places.append(ROOT / "walkv" / f"{span}.py")
            assert any(place.exists() for place in places), f"{span} is not there"


def test_the_tower_has_every_module() -> None:
    (rows,) = tables(section(DOCS / "design.md", "The tower"))
    spans = [
        span.strip("/").rpartition("/")[2] for r in rows[1:] for span in CODE_SPAN.findall(r[1])
    ]
    found = {path.stem for path in (ROOT / "walkv" / "engine").iterdir() if path.name[0] != "_"}
    assert sorted(spans) == sorted(
        found
        | {"errors", "limits", "walkv", "walkv.cli", "walkv.testing"}
        | {"walkv.namespaces", "walkv.ops", "walkv.agent", "walkv.records", "walkv.interfaces"}
        | {"walkv.integrations"}
    )


def test_the_last_full_run_is_shown_whole() -> None:
    found = tables(section(DOCS / "reliability.md", "The last full run"))
    shown = {row[0]: int(row[1].replace(",", "")) for row in found[0][1:]}
    assert list(shown) == [row.name for row in report.ROWS]
    for row in report.ROWS:
        assert row.least is None or shown[row.name] >= row.least, row.name
        assert row.most is None or shown[row.name] <= row.most, row.name
    assert {row[0] for row in found[1][1:]} == set(registry.NAMES)


def test_every_layer_is_explained() -> None:
    (rows,) = tables(section(DOCS / "reliability.md", "The layers"))[:1]
    assert [row[0].strip("`") for row in rows[1:]] == list(registry.NAMES)


def test_the_fakes_are_all_listed() -> None:
    (rows,) = tables(section(DOCS / "api.md", "Fakes for tests"))
    listed = [span for row in rows[1:] for span in CODE_SPAN.findall(row[0])]
    assert sorted(listed) == sorted(testing.__all__)


def test_every_folder_of_tests_is_explained() -> None:
    (rows,) = tables(section(DOCS / "reading-the-source.md", "Which test shows what"))
    listed = {row[0].strip("`").removeprefix("tests/") for row in rows[1:]} - {"test_docs.py"}
    helpers = {"support", "__pycache__"}
    assert listed == {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()} - helpers


def section(page: Path, heading: str) -> str:
    """The text under a heading, up to the next one of the same or a higher level."""
    text = page.read_text()
    for found in HEADING.finditer(text):
        if found[2] == heading:
            rest = text[found.end() :]
            end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
            return rest[: end.start()] if end else rest
    raise AssertionError(f"{named(page)} has no heading {heading!r}")


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a text: rows of cells, the head first, without the row of dashes."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            # A | inside a code span or behind a backslash would be a cell of its own: none here.
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not inside:
                found.append([])
            found[-1].append(cells)
        inside = line.startswith("|")
    for rows in found:
        assert set("".join(rows[1])) <= set("-:"), f"no row of dashes under {rows[0]}"
        del rows[1]
        assert all(len(row) == len(rows[0]) for row in rows), f"ragged table {rows[0]}"
    return found


PRIVATE = {"engine"}
"""What the parts of a face use of each other; compatibility.md says that it is private."""


def code_of(page: Path) -> str:
    return "\n".join(CODE_SPAN.findall(page.read_text()))


@pytest.mark.parametrize("name", walkv.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", code_of(DOCS / "api.md"))


@pytest.mark.parametrize("face", [walkv.Store, walkv.AsyncStore])
def test_every_method_is_documented(face: type) -> None:
    code = code_of(DOCS / "api.md")
    public = {name for name in vars(face) if not name.startswith("_")} - PRIVATE
    assert not [name for name in public if not re.search(rf"(?<![\w]){name}\b", code)]


def test_methods_and_arguments_in_the_table_exist() -> None:
    (rows,) = tables(section(DOCS / "api.md", "A store"))
    for row in rows[1:]:
        for span in CODE_SPAN.findall(row[0]):
            name, _, arguments = span.rstrip(")").partition("(")
            known = inspect.signature(getattr(walkv.Store, name)).parameters
            named_arguments = re.findall(r"[a-z_]+", arguments.replace("=None", ""))
            assert set(named_arguments) <= set(known), span
    (rows,) = tables(section(DOCS / "api.md", "Opening"))
    for face in (walkv.open, walkv.aopen):
        known = inspect.signature(face).parameters
        assert [row[0].strip("`") for row in rows[1:]] == list(known)[1:]
    for row in rows[1:]:
        default = inspect.signature(walkv.open).parameters[row[0].strip("`")].default
        if "MiB" in row[1]:
            assert row[1] == f"{default // limits.MIB} MiB"
        elif row[1].startswith("`"):
            assert row[1] == f"`{default!r}`"


def test_errors_and_their_attributes_exist() -> None:
    (rows,) = tables(section(DOCS / "api.md", "Errors"))
    listed = {row[0].strip("`"): row for row in rows[1:]}
    errors = {name for name in walkv.__all__ if name.endswith("Error")}
    assert set(listed) == errors | {"OSError"}
    for name in errors:
        _, _, attributes = listed[name][1].partition(": ")
        for attribute in CODE_SPAN.findall(attributes):
            assert hasattr(getattr(walkv, name)("x"), attribute), f"{name}.{attribute}"


@pages
def test_names_of_walkv_in_code_spans_exist(page: Path) -> None:
    for span in CODE_SPAN.findall(page.read_text()):
        found = re.match(r"walkv(?:\.\w+)+", span)
        if found:
            pkgutil.resolve_name(found[0])


def test_the_changelog_has_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog
    assert re.search(rf"^## \[{re.escape(walkv.__version__)}\]", changelog, re.MULTILINE)


def test_one_word_one_meaning() -> None:
    words = re.findall(r"(?:^- |\. )\*\*([^*]+)\*\*", (DOCS / "glossary.md").read_text(), re.M)
    assert len(words) == len(set(words))
    assert {"frame", "torn tail", "sequence", "durable", "memtable", "view"} <= set(words)


# -- the command line ------------------------------------------------------------------------------


def test_the_commands_are_listed() -> None:
    rows = tables((DOCS / "cli.md").read_text())[0][1:]
    listed = [CODE_SPAN.findall(row[0])[0].split()[1] for row in rows]
    assert sorted(listed) == sorted(walkv_command.commands)


def test_arguments_and_options_of_commands_exist() -> None:
    commands = walkv_command.commands
    for row in tables((DOCS / "cli.md").read_text())[0][1:]:
        _, name, *arguments = CODE_SPAN.findall(row[0])[0].split()
        known = [p for p in commands[name].params if isinstance(p, click.Argument)]
        context = click.Context(commands[name])
        assert arguments == [argument.make_metavar(context) for argument in known]
    every = [*commands.values()]
    for group in commands.values():
        every += group.commands.values() if isinstance(group, click.Group) else ()
    options = {option for command in every for p in command.params for option in p.opts}
    text = (DOCS / "cli.md").read_text()
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text):
        assert option in options | {"--help"}, option


def command_lines(page: Path) -> Iterator[str]:
    """What begins with the command's name, in code spans (wrapped ones too) and shell examples."""
    prose = " ".join(FENCE.sub("", page.read_text()).split())
    yield from (span for span in CODE_SPAN.findall(prose) if span.startswith("walkv "))
    for example in examples_of(page):
        if example.language == "sh":
            yield from re.findall(r"(?<![\w.-])walkv .*", example.text)


# The spans of format.md are bytes, and some of these begin with the name.
@pytest.mark.parametrize("page", sorted({*PAGES} - {DOCS / "format.md"}), ids=named)
def test_commands_that_are_named_exist(page: Path) -> None:
    for line in command_lines(page):
        _, *words = shlex.split(line)
        if line == listings.FORMAT or not re.fullmatch("[a-z]+", words[0]):
            continue
        command: click.Command = walkv_command
        while isinstance(command, click.Group) and words:
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {option for param in command.params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


# -- promises and limits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        (ROOT / "README.md", "What a commit promises"),
        (DOCS / "durability.md", "Two moments of a commit"),
    ],
)
def test_the_promise_table_names_every_policy(page: Path, heading: str) -> None:
    (rows,) = tables(section(page, heading))
    by_type = {}
    for row in rows[1:]:
        (code,) = CODE_SPAN.findall(row[0])
        policy = code.replace("(interval_seconds, max_unsynced_bytes)", "()")
        made = eval(policy, {name: getattr(walkv, name) for name in walkv.__all__})
        assert made == type(made)(), "the defaults are not those of the code"
        by_type[type(made)] = row
        default = inspect.signature(walkv.open).parameters["sync"].default
        assert ("default" in row[0]) == (made == default and page.name == "README.md")
    assert set(by_type) == set(get_args(policies.SyncPolicy))
    kill, power = (rows[0].index(next(c for c in rows[0] if w in c)) for w in ("kill -9", "power"))
    for kind, row in by_type.items():
        assert row[kill] == "yes"
        assert (row[power] == "yes") == (kind is not walkv.WriteBack)


def test_the_limits_are_those_of_the_code() -> None:
    (rows,) = tables(section(ROOT / "README.md", "Limits"))
    limit = {row[0]: row[1] for row in rows[1:]}
    assert limit["key"] == f"1 to {limits.MAX_KEY_BYTES:,} bytes"
    assert limit["value"] == "1 GiB"
    assert limits.MAX_VALUE_BYTES == limits.GIB
    assert limits.MAX_BATCH_BYTES == limits.GIB + limits.MIB
    assert limit["batch"].startswith("1 GiB + 1 MiB of keys and values")
    assert f"{limits.MAX_BATCH_OPERATIONS:,} operations" in limit["batch"]
    for budget in (limits.DEFAULT_MEMTABLE_BYTES, limits.DEFAULT_CACHE_BYTES):
        assert f"({budget // limits.MIB} MiB)" in limit["memory"]
    text = (DOCS / "format.md").read_text()
    assert f"payload_length is 1 to {limits.MAX_PAYLOAD_BYTES:,}" in text
    assert f"raw_length is at most {limits.MAX_BLOCK_BYTES:,}" in text
    assert f"at most\n{limits.MAX_MANIFEST_BYTES // limits.MIB} MiB" in text
    assert f"1 to {limits.MAX_KEY_BYTES:,} bytes" in text
    assert f"would pass {limits.BLOCK_TARGET_BYTES // limits.KIB} KiB" in text
    assert f"up to {limits.PARTITION_BLOCKS} data pages" in text


def test_the_numbers_in_the_design_are_those_of_the_code() -> None:
    text = " ".join((DOCS / "design.md").read_text().split())
    stated = [
        f"Up to {limits.PARTITION_BLOCKS} of them and the index page",
        f"data pages of about {limits.BLOCK_TARGET_BYTES // limits.KIB} KiB",
        f"At {limits.MAX_SNAPSHOTS} snapshots writers wait",
        f"sync of up to {wal._SMALL_GROUP_BYTES // limits.KIB} KiB",
        f"adds {len(wal._AHEAD) // limits.KIB} KiB of zeros",
        f"stops after {compaction._SLICE_SECONDS * 1000:.1f} ms",
        f"rests {compaction._REST_SECONDS * 1000:.0f} ms",
        f"a group of {wal.CROWD} or more the next leader waits {wal.GATHER_SECONDS * 1e6:.0f} us",
        f"after {wal._SMALL_FRAMES} small frames in a row {len(wal._AHEAD) // limits.KIB} KiB of",
        f"waits {writes._TRICKLE_SECONDS * 1000:.0f} ms for each further "
        f"{writes._TRICKLE_BYTES // limits.KIB} KiB",
        f"synced each {writer._SYNC_BYTES // limits.MIB} MiB",
        f"has at most {batch._WITH_DELETION_BYTES // limits.KIB} KiB counts as a delete",
        f"asked for once in {writes._CHECKED_BYTES // limits.MIB} MiB of writes",
        f"{picking.SAMPLE_KEYS} keys of each new snapshot",
    ]
    assert (writes._HEAD_START, writes._PACED) == (0.1, 0.6)
    assert "a tenth of it at once, then six tenths in step with the flush" in text
    for words in stated:
        assert words in text, words
    assert f"more than {picking.DEAD_RATIO:.0%} of all entries".replace("%", " %") in text
    assert picking.TIER_COUNT == 4
    assert "four or more of the newest" in text
    assert f"From {picking.MERGE_FIRST} snapshots on" in text
    assert syncer.IDLE_SECONDS == 1, "durability.md says: about a second after a durable commit"


# -- the format ------------------------------------------------------------------------------------

FORMAT = DOCS / "format.md"


class Field(NamedTuple):
    offset: int
    size: str
    name: str
    value: str


def layout_table(heading: str) -> list[Field]:
    for rows in tables(section(FORMAT, heading)):
        if rows[0] == ["offset", "size", "field", "value"]:
            return [Field(int(row[0]), *row[1:]) for row in rows[1:]]
    raise AssertionError(f"no byte table under {heading!r}")


SALT = 0x0102030405060708
STORE_ID = bytes(range(16))
PAYLOAD = b"payload of some length"


def a_segment_header() -> tuple[bytes, dict[str, Any]]:
    values = {"store_id": STORE_ID, "salt": SALT, "first_sequence": 7, "created_ns": 8}
    data = segment.SegmentHeader(STORE_ID, SALT, 7, 8, 9).encode()
    assert len(data) == segment.HEADER_BYTES
    fixed = {"magic": segment.MAGIC, "format_version": segment.FORMAT_VERSION}
    return data, {**values, **fixed, "features": 1, "key_number": 9, "checksum": data[56:]}


def a_frame() -> tuple[bytes, dict[str, Any]]:
    values: dict[str, Any] = {"operation_count": 3, "first_sequence": 4, "time_ns": 5}
    values["synced_offset"] = 64
    data = frame.encode(PAYLOAD, salt=SALT, offset=128, kind=frame.SEAL, **values)
    assert len(data) == frame.HEADER_BYTES + len(PAYLOAD)
    fixed = {"mark": frame.mark(SALT), "kind": frame.SEAL, "payload_length": len(PAYLOAD)}
    return data, {**values, **fixed, "checksum": data[:8], "payload": PAYLOAD}


def a_snapshot_header() -> tuple[bytes, dict[str, Any]]:
    values = {"store_id": STORE_ID, "salt": SALT, "snapshot_id": 7, "created_ns": 8}
    data = layout.SnapshotHeader(STORE_ID, SALT, 7, 8, 9).encode()
    assert len(data) == layout.HEADER_BYTES
    fixed = {"magic": layout.MAGIC, "format_version": layout.FORMAT_VERSION}
    return data, {**values, **fixed, "features": 1, "key_number": 9, "checksum": data[56:]}


def a_snapshot_footer() -> tuple[bytes, dict[str, Any]]:
    values = {
        "root_offset": 100,
        "root_length": 28,
        "entry_count": 3,
        "tombstone_count": 2,
        "last_sequence": 9,
    }
    data = layout.SnapshotFooter(**values).encode(SALT, 128)
    assert len(data) == layout.FOOTER_BYTES
    return data, {**values, "reserved": 0, "magic": layout.END_MAGIC, "checksum": data[:8]}


def a_page() -> tuple[bytes, dict[str, Any]]:
    body = layout.PageEncoder().encode(layout.INDEX, PAYLOAD, plain=True)
    data = layout.place_page(body, SALT, 128)
    assert len(data) == layout.PAGE_HEADER_BYTES + len(PAYLOAD)
    values = {"kind": layout.INDEX, "codec": layout.STORED, "flags": layout.FLAG_PLAIN}
    fixed = {"raw_length": len(PAYLOAD), "payload": PAYLOAD, "checksum": data[:8]}
    return data, {**values, **fixed}


def a_manifest() -> tuple[bytes, dict[str, Any]]:
    data = manifest.encode(manifest.Manifest(STORE_ID, 1, 2, 3, 4, (1,), ()))
    payload = data[manifest.HEADER_BYTES :]
    fixed = {"magic": manifest.MAGIC, "format_version": manifest.FORMAT_VERSION}
    lengths = {"payload_length": len(payload), "payload": payload}
    return data, {**fixed, **lengths, "checksum": data[16:24]}


def a_sealed_payload() -> tuple[bytes, dict[str, Any]]:
    sealer = cipher.Sealer(
        bytes(32), bytes(64), "p", lambda size: bytes(range(256)) * (size // 256)
    )
    data = sealer.seal(PAYLOAD, b"head", 64)
    assert len(data) == len(PAYLOAD) + cipher.SEAL_BYTES
    assert sealer.open(data, b"head", 64) == PAYLOAD
    return data, {"nonce": data[: cipher.NONCE_BYTES], "sealed": data[cipher.NONCE_BYTES :]}


Sample = Callable[[], tuple[bytes, dict[str, Any]]]

layouts = pytest.mark.parametrize(
    ("heading", "sample", "header_bytes", "module"),
    [
        ("Segment header", a_segment_header, segment.HEADER_BYTES, segment),
        ("Frame", a_frame, frame.HEADER_BYTES, frame),
        ("Snapshot header", a_snapshot_header, layout.HEADER_BYTES, layout),
        ("Snapshot footer", a_snapshot_footer, layout.FOOTER_BYTES, layout),
        ("Page", a_page, layout.PAGE_HEADER_BYTES, layout),
        ("Manifest", a_manifest, manifest.HEADER_BYTES, manifest),
        ("Encryption", a_sealed_payload, cipher.NONCE_BYTES, cipher),
    ],
)


@layouts
def test_fields_follow_each_other(
    heading: str, sample: Sample, header_bytes: int, module: Any
) -> None:
    offset = 0
    table = layout_table(heading)
    for field in table:
        assert field.offset == offset, field
        if field.size.isdigit():
            offset += int(field.size)
        else:
            assert field is table[-1], "only the last field may have a length of its own"
    assert offset == header_bytes


@layouts
def test_fields_are_where_the_code_writes_them(
    heading: str, sample: Sample, header_bytes: int, module: Any
) -> None:
    data, values = sample()
    assert [field.name for field in layout_table(heading)] == sorted(
        values, key=[field.name for field in layout_table(heading)].index
    )
    for field in layout_table(heading):
        expected = values[field.name]
        size = int(field.size) if field.size.isdigit() else len(data) - field.offset
        found = data[field.offset : field.offset + size]
        if isinstance(expected, int):
            expected = expected.to_bytes(size, "little")
        assert found == expected, field


@layouts
def test_fields_are_those_of_the_docstring(
    heading: str, sample: Sample, header_bytes: int, module: Any
) -> None:
    row = re.compile(r"^ +(\d+) +(\d+|-)  (\w+)", re.MULTILINE)
    found = [(int(at), size, name) for at, size, name in row.findall(module.__doc__)]
    stated = [
        (field.offset, field.size if field.size.isdigit() else "-", field.name)
        for field in layout_table(heading)
    ]
    starts = [index for index, field in enumerate(found) if field[0] == 0]
    parts = [found[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    assert stated in parts


@layouts
def test_fixed_values_are_those_of_the_code(
    heading: str, sample: Sample, header_bytes: int, module: Any
) -> None:
    _, values = sample()
    checked = 0
    for field in layout_table(heading):
        if field.name == "magic":
            assert field.value == f"`{values[field.name].decode()}`"
            checked += 1
        elif field.value.isdigit():
            assert values[field.name] == int(field.value), field
            checked += 1
    assert checked or heading in ("Page", "Frame", "Encryption")


def test_frame_kinds() -> None:
    rows = next(rows for rows in tables(section(FORMAT, "Frame")) if rows[0][0] == "kind")
    stated = {int(row[0]): row[1] for row in rows[1:]}
    assert set(stated) == frame.KINDS
    for number, name in stated.items():
        assert getattr(frame, name.upper().replace(" ", "_")) == number
    assert {row[1] for row in rows[1:] if row[2] == "one zero byte"} == set(stated.values()) - {
        "commit"
    }
    assert wal._NOTHING == b"\0"


def test_page_kinds_codecs_and_flags() -> None:
    rows = tables(section(FORMAT, "Page"))[1]
    assert rows[0][0] == "page kind"
    assert {row[1]: int(row[0]) for row in rows[1:]} == {
        "data": layout.DATA,
        "index": layout.INDEX,
        "root": layout.ROOT,
    }
    value = {field.name: field.value for field in layout_table("Page")}
    assert value["codec"] == f"{layout.STORED} as it is, {layout.ZSTD} zstd"
    assert value["flags"].startswith(f"bit {layout.FLAG_PLAIN.bit_length() - 1}:")


def test_page_payloads_are_those_of_the_docstring() -> None:
    doc = " ".join((blocks.__doc__ or "").split())
    for row in tables(section(FORMAT, "Page"))[1][1:]:
        assert f"{row[1]} {row[2]}" in doc


def test_payload_rows_are_what_the_code_accepts() -> None:
    (rows,) = tables(section(FORMAT, "Payload of a commit"))
    samples: dict[str, list[Any]] = {
        "put": [b"key", b"value"],
        "put that expires": [b"key", [1, b"value"]],
        "delete": [b"key", None],
        "delete range": [[b"a", b"b"], None, [b"a", None], None],
    }
    assert {row[0] for row in rows[1:]} == set(samples)
    for operations in samples.values():
        assert batch.decode(batch.encode(operations)) == operations
    with pytest.raises(ValueError, match="neither"):
        batch.decode(batch.encode([b"key", [1 << 63, b"value"]]))


def test_the_elements_of_the_manifest() -> None:
    rows = tables(section(FORMAT, "Manifest"))[1]
    assert [row[0] for row in rows[1:]] == [field.name for field in fields(manifest.Manifest)]
    meaning = {row[0]: row[1] for row in rows[1:]}
    assert len(fields(SnapshotSummary)) == len(
        re.findall(r"\w+", meaning["snapshots"].split("]")[0])
    )


def test_the_ring_and_its_keys() -> None:
    rings, keys = tables(section(FORMAT, "The ring of keys"))
    assert [row[0] for row in rings[1:]] == [field.name for field in fields(keyring.Ring)]
    assert f"1 to {keyring.MAX_KEY_NUMBER:,}" in rings[-1][1]
    assert f"bin of {keyring.CHECK_BYTES} bytes" in rings[2][1]
    # What a reader of the page alone would do, with the library alone.
    secret = bytes(range(32))
    ours = Keyring(Secret(secret), lambda size: hashlib.shake_256(b"random").digest(size))
    ours.begin(STORE_ID)
    assert ours.ring is not None
    infos = {row[0].split(",")[0]: CODE_SPAN.findall(row[2])[0].encode() for row in keys[1:]}

    def derive(key: bytes, name: str, more: bytes) -> bytes:
        return HKDF(SHA256(), 32, None, infos[name] + more).derive(key)

    wrapping = derive(secret, "key-encryption key", STORE_ID)
    assert ours.ring.check == derive(secret, "check", STORE_ID)[:16]
    ((number, wrapped),) = ours.ring.keys
    numbers = number.to_bytes(2, "little") * 2  # it is the last one as well
    purpose = b"walkv data key" + STORE_ID + numbers
    assert len(wrapped) == 60
    data_key = AESGCM(wrapping).decrypt(wrapped[:12], wrapped[12:], purpose)
    one = manifest.Manifest(STORE_ID, 1, 2, 3, 4, (1,), (), ours.ring)
    data = manifest.encode(one, ours)
    tag_key = derive(data_key, "key of the manifest's tag", STORE_ID)
    assert hmac.digest(tag_key, data[:16] + data[24:-32], "sha256") == data[-32:]
    header = segment.SegmentHeader(STORE_ID, SALT, 7, 8, number)
    whole = frame.encode(
        PAYLOAD,
        salt=SALT,
        offset=64,
        operation_count=1,
        first_sequence=7,
        time_ns=8,
        synced_offset=0,
        sealer=ours.for_file(header, "p"),
    )
    cipher_of_file = AESGCM(derive(data_key, "key of a file", header.encode()))
    found = cipher_of_file.decrypt(
        whole[44:56], whole[56:], whole[8:44] + (64).to_bytes(8, "little")
    )
    assert found == PAYLOAD


def test_the_names_in_a_directory(tmp_path: Path) -> None:
    (rows,) = tables(section(FORMAT, "The directory"))
    patterns = []
    for row in rows[1:]:
        pattern = re.escape(CODE_SPAN.findall(row[0])[0])
        # Longest first: "<segment name>" holds no other placeholder, and so on.
        for words, digits in (
            ("<segment name>", r"\d{20}\.wal"),
            ("<first sequence, 20 digits>", r"\d{20}"),
            ("<id, 10 digits>", r"\d{10}"),
            ("<offset>", r"\d+"),
            ("<n>", r"\d+"),
        ):
            pattern = pattern.replace(re.escape(words), digits)
        patterns.append(pattern)
    assert {pattern.split("/")[0] for pattern in map(str.strip, patterns)} == {
        re.escape(name) for name in files.OWN_NAMES
    }

    met = set()
    for name in existing(a_store_with_everything(tmp_path / "s.walkv")):
        matches = [pattern for pattern in patterns if re.fullmatch(pattern, name)]
        assert len(matches) == 1, name
        met.add(matches[0])
    assert set(patterns) - met == {r"MANIFEST\.tmp"}


def existing(path: Path) -> Iterator[str]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(path))


def a_store_with_everything(path: Path) -> Path:
    """A store with a snapshot, a kept segment, and two torn tails cut at the same place."""
    with walkv.open(path, keep_log=walkv.KeepLog()) as store:
        store.put(b"key", b"value")
        store.compact()
    (tail,) = (path / "log").glob("*.wal")
    size = tail.stat().st_size
    taken = path / "quarantine" / f"{tail.name}.{size}.torn"
    taken.write_bytes(b"saved by a recovery that was killed")
    tail.write_bytes(tail.read_bytes() + b"torn")
    with walkv.open(path) as store:
        assert store.recovery_report.cut_bytes == 4
        assert len(store.recovery_report.quarantine_path or "") == len(str(taken)) + 2
    return path


def test_the_page_on_langgraph_runs_from_top_to_bottom_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = DOCS / "langgraph.md"
    for _ in range(2):
        for example in examples_of(page):
            if example.language == "python":
                source = "\n" * example.line + example.text
                code = compile(source, named(page), "exec", dont_inherit=True)
                exec(code, {"__name__": "__main__"})


def test_every_public_name_for_langgraph_is_documented() -> None:
    from walkv.integrations import langgraph

    listed = (DOCS / "api.md").read_text()
    assert all(f"`{name}" in listed for name in langgraph.__all__)
