"""States against the bytes that were put, what they cost, and what damage does to them."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import walkv
from walkv.errors import CorruptionError
from walkv.namespaces.checkpoints import cutting, deltas
from walkv.namespaces.checkpoints import states as module
from walkv.namespaces.checkpoints.recipes import decoded
from walkv.namespaces.checkpoints.states import States

PREFIX = b"s/"
Document = dict[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[walkv.Store]:
    with walkv.open(tmp_path / "s", sync=walkv.WriteBack()) as opened:
        yield opened


def fill(seed: int, size_bytes: int) -> str:
    """Text that does not compress much, always the same for a seed."""
    return base64.b64encode(random.Random(seed).randbytes(size_bytes * 3 // 4)).decode()


def message(seed: int, size_bytes: int = 1000) -> Document:
    return {"role": "user", "content": fill(seed, size_bytes), "id": seed}


def conversation(count: int, size_bytes: int = 1000, **rest: Any) -> Document:
    messages = [message(seed, size_bytes) for seed in range(count)]
    return {"messages": messages, "step": count, **rest}


def packed(document: Any) -> bytes:
    return bytes(msgpack.packb(document))


def put(
    store: walkv.Store, states: States, state: bytes, previous: bytes | None = None, pool: int = 1
) -> bytes:
    prepared = states.prepare(store, pool, state, previous)
    with store.transaction() as transaction:
        return states.write(transaction, pool, prepared)


def put_all(store: walkv.Store, states: States, sequence: list[bytes]) -> list[bytes]:
    recipes: list[bytes] = []
    for state in sequence:
        recipes.append(put(store, states, state, recipes[-1] if recipes else None))
    return recipes


def parts_of(store: walkv.Store, pool: int = 1) -> dict[int, bytes]:
    prefix = PREFIX + pool.to_bytes(8, "big") + b"p"
    return {int.from_bytes(key[-8:], "big"): value for key, value in store.scan(prefix)}


def key_of(number: int, pool: int = 1) -> bytes:
    return PREFIX + pool.to_bytes(8, "big") + b"p" + number.to_bytes(8, "big")


def collect(store: walkv.Store, states: States, live: list[bytes], pool: int = 1) -> int:
    with store.transaction() as transaction:
        return states.collect(transaction, pool, live)


def links(store: walkv.Store, number: int) -> int:
    """Deltas between a part and a whole one."""
    parts, count = parts_of(store), 0
    while parts[number][:1] == b"\1":
        number = msgpack.unpackb(parts[number][1:])[0]
        count += 1
    return count


# -- round trips ---------------------------------------------------------------------------------

TEXT = st.builds(fill, st.integers(0, 40), st.sampled_from([8, 100, 300, 700, 3000, 9000, 20_000]))
SCALAR = st.one_of(st.none(), st.integers(-5, 1 << 40), st.booleans(), TEXT, st.binary(max_size=40))
TREE = st.recursive(
    st.one_of(SCALAR, st.builds(lambda n: list(range(n)), st.integers(0, 3000))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=12), st.dictionaries(st.text(max_size=8), inner, max_size=8)
    ),
    max_leaves=40,
)


@st.composite
def edits(draw: st.DrawFn) -> list[bytes]:
    """A document and what became of it, step by step."""
    items = draw(st.lists(TREE, max_size=20))
    sequence = []
    for step in range(draw(st.integers(1, 6))):
        sequence.append(packed({"items": items, "step": step}))
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, max(len(items) - 1, 0)))
            match draw(st.sampled_from(["insert", "delete", "change", "reverse", "twice", "wrap"])):
                case "insert":
                    items = [*items[:at], draw(TREE), *items[at:]]
                case "delete":
                    items = [*items[:at], *items[at + 1 :]]
                case "change":
                    items = [*items[:at], draw(TREE), *items[at + 1 :]]
                case "reverse":
                    items = [*items[:at], *reversed(items[at:])]
                case "twice":
                    items = [*items, *items[at : at + 2]]
                case "wrap":
                    items = [items]
    return sequence


def check_sequence(tmp: Path, sequence: list[bytes]) -> None:
    """Put, with and without the cache and the previous state; read; collect; read again."""
    with walkv.open(tmp, sync=walkv.WriteBack()) as store:
        with store.transaction() as transaction:
            transaction.delete_range(PREFIX)
        recipes: list[bytes] = []
        cached = States(PREFIX)
        for number, state in enumerate(sequence):
            # Each third is matched against what is read, and each fifth against nothing.
            states = States(PREFIX) if number % 3 == 2 else cached
            previous = recipes[-1] if recipes and number % 5 != 4 else None
            recipes.append(put(store, states, state, previous))
        fresh = States(PREFIX)
        for recipe, state in zip(recipes, sequence, strict=True):
            assert fresh.read(store, 1, recipe) == state
        collect(store, fresh, recipes[1::2])
        for recipe, state in zip(recipes[1::2], sequence[1::2], strict=True):
            assert fresh.read(store, 1, recipe) == state


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states") / "s"


@settings(max_examples=80, deadline=None)
@given(sequence=edits())
def test_documents_and_their_edits_come_back(folder: Path, sequence: list[bytes]) -> None:
    check_sequence(folder, sequence)


@settings(max_examples=80, deadline=None)
@given(sequence=st.lists(st.binary(max_size=3000), min_size=1, max_size=4))
def test_any_bytes_come_back(folder: Path, sequence: list[bytes]) -> None:
    check_sequence(folder, sequence)


@settings(max_examples=80, deadline=None)
@given(sequence=edits(), at=st.integers(0, 1 << 20), byte=st.integers(0, 255))
def test_documents_with_a_wrong_byte_or_end_come_back(
    folder: Path, sequence: list[bytes], at: int, byte: int
) -> None:
    broken = []
    for state in sequence:
        place = at % len(state)
        broken += [
            state[:place] + bytes((byte,)) + state[place + 1 :],
            state[:place],
            state + state,
        ]
    check_sequence(folder, broken)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xc1" * 5000,
        b"\x91" * 200_000,
        b"\xdd\xff\xff\xff\xff" + b"\xdb\xff\xff\xff\xff" * 1000,
        b"\xdc\x00\x02" * 9000,
        b"\xdf\x00\x00\x00\x02" + b"\xdd\x00\x00\x01\x00" * 4000,
        packed([0] * 100_000),
        packed([[[[[[[[[[[["x" * 50_000]]]]]]]]]]]]),
        packed({"a": "x" * 9000})[:-1],
        b"\x92" + packed("x" * 9000),
        b"\x80" + bytes(9000),
        b"\xc6\x00\x00",
    ],
)
def test_hostile_states_come_back(store: walkv.Store, state: bytes) -> None:
    recipes = put_all(store, States(PREFIX), [state, state + b"x", b"y" + state])
    for recipe, expected in zip(recipes, [state, state + b"x", b"y" + state], strict=True):
        assert States(PREFIX).read(store, 1, recipe) == expected


def test_a_very_large_leaf_is_a_delta(store: walkv.Store) -> None:
    blob = random.Random(1).randbytes(40_000_000)
    documents = [blob, blob[:9000] + b"edit" + blob[9000:30_000_000] + blob[30_000_007:], blob[1:]]
    sequence = [packed(document) for document in documents]
    recipes = put_all(store, States(PREFIX), sequence)
    for recipe, state in zip(recipes, sequence, strict=True):
        assert States(PREFIX).read(store, 1, recipe) == state


def test_borders_hold_at_the_edges_of_their_sizes() -> None:
    for size_bytes in [*range(120, 136), *range(250, 262), *range(8180, 8200)]:
        state = packed([fill(1, size_bytes), fill(2, size_bytes), {"a": fill(3, size_bytes)}])
        at = 0
        for start, end, literal in cutting.cut(state).segments:
            assert start == at < end
            assert not literal or end - start < cutting.LITERAL_BYTES
            at = end
        assert at == len(state)


def test_what_is_not_worth_cutting_is_one_segment() -> None:
    assert len(cutting.cut(packed({"n": list(range(30_000))})).segments) <= 4
    nested: Any = fill(1, 20_000)
    for _ in range(40):
        nested = [nested]
    assert len(cutting.cut(packed(nested)).segments) <= cutting.MAX_CUT_DEPTH + 3


# -- what a state costs --------------------------------------------------------------------------


def test_a_message_more_costs_a_message(store: walkv.Store) -> None:
    states = States(PREFIX)
    recipe = put(store, states, packed(conversation(400)))
    for count in range(401, 420):
        before = parts_of(store)
        recipe = put(store, states, packed(conversation(count)), recipe)
        after = parts_of(store)
        assert len(after) == len(before) + 1
        assert sum(map(len, after.values())) - sum(map(len, before.values())) < 1100
        assert len(recipe) < 100


def test_an_insertion_and_a_change_rewrite_nothing_else(store: walkv.Store) -> None:
    document = conversation(300)
    recipe = put(store, States(PREFIX), packed(document))
    before = len(parts_of(store))
    document["messages"].insert(3, message(1000))
    document["messages"][200] = message(1001)
    del document["messages"][250]
    document["messages"].append(document["messages"].pop(100))
    # Matched by what is read of the previous state, not by the cache.
    recipe = put(store, States(PREFIX), packed(document), recipe)
    assert len(parts_of(store)) == before + 2
    assert States(PREFIX).read(store, 1, recipe) == packed(document)


def test_groups_of_small_elements_survive_an_insertion(store: walkv.Store) -> None:
    items = [fill(seed, 180) for seed in range(1000)]
    recipe = put(store, States(PREFIX), packed({"items": items}))
    before = parts_of(store)
    assert 100 < len(before) < 400
    items.insert(10, fill(5000, 150))
    recipe = put(store, States(PREFIX), packed({"items": items}), recipe)
    inserted = len(parts_of(store))
    assert inserted <= len(before) + 3
    # What is added at the end changes the count at the beginning, but not the first group.
    put(store, States(PREFIX), packed({"items": [*items, fill(5001, 150)]}), recipe)
    assert len(parts_of(store)) == inserted + 1


def test_the_same_state_again_writes_nothing(store: walkv.Store) -> None:
    state = packed(conversation(50))
    first = put(store, States(PREFIX), state)
    before = dict(store.scan())
    assert put(store, States(PREFIX), state, first) == first
    assert dict(store.scan()) == before


def test_equal_segments_are_kept_once(store: walkv.Store) -> None:
    state = packed([message(1)] * 300)
    recipe = put(store, States(PREFIX), state)
    assert len(parts_of(store)) == 1
    assert States(PREFIX).read(store, 1, recipe) == state


def test_tiny_states_are_all_recipe(store: walkv.Store) -> None:
    state = packed({"step": 1})
    recipe = put(store, States(PREFIX), state)
    assert list(store.scan()) == []
    assert States(PREFIX).read(store, 1, recipe) == state


def test_a_large_leaf_is_kept_as_its_difference(store: walkv.Store) -> None:
    draft = fill(1, 64_000)
    states = States(PREFIX)
    recipe = put(store, states, packed(conversation(20, draft=draft)))
    before = sum(map(len, parts_of(store).values()))
    # A message more and an edited draft at once: the message is not taken for the draft.
    draft = draft[:30_000] + "edited" + draft[30_010:]
    recipe = put(store, states, packed(conversation(21, 3000, draft=draft)), recipe)
    recipe = put(store, states, packed(conversation(22, 3000, draft=draft + "more")), recipe)
    assert sum(map(len, parts_of(store).values())) - before < 22 * 3000 + 3000
    assert states.read(store, 1, recipe) == packed(conversation(22, 3000, draft=draft + "more"))


@pytest.mark.parametrize("dump", [packed, lambda document: repr(document).encode()])
def test_a_leaf_that_grows_costs_what_was_added(
    store: walkv.Store, dump: Callable[[Any], bytes]
) -> None:
    text = fill(1, 200_000)
    sequence = [dump({"log": text + fill(2, 500 * step), "step": step}) for step in range(10)]
    recipes = put_all(store, States(PREFIX), sequence)
    assert sum(map(len, parts_of(store).values())) < len(sequence[0]) + 10_000
    assert States(PREFIX).read(store, 1, recipes[-1]) == sequence[-1]


@pytest.mark.parametrize("size_bytes", [20_000, 400_000, 2_000_000])
def test_edits_far_apart_cost_themselves(store: walkv.Store, size_bytes: int) -> None:
    text = fill(1, size_bytes)
    step = size_bytes // 4
    edited = text[:step] + "one" + text[step : 3 * step] + "two" + text[3 * step + 30 :]
    recipes = put_all(store, States(PREFIX), [packed(text), packed(edited)])
    assert sum(map(len, parts_of(store).values())) < size_bytes + 1000
    assert States(PREFIX).read(store, 1, recipes[-1]) == packed(edited)


def test_a_beginning_and_an_end_in_common_do_not_overlap(store: walkv.Store) -> None:
    sequence = [b"a" * size_bytes for size_bytes in (3000, 5000, 2500, 9000, 2050)]
    recipes = put_all(store, States(PREFIX), sequence)
    for recipe, state in zip(recipes, sequence, strict=True):
        assert States(PREFIX).read(store, 1, recipe) == state
    assert sum(map(len, parts_of(store).values())) < 3300


def test_what_is_only_added_has_no_counterpart() -> None:
    def parts(*numbers: int) -> module._Known:
        digests = [bytes((number % 256,)) for number in numbers]
        return module._Known(digests, list(numbers), [5000] * len(numbers))

    new = module._NEW
    assert list(module._counterparts(parts(1, 2, 3), parts(1, 2, 3, new))) == []
    assert list(module._counterparts(parts(1, 2, 3), parts(new, 1, 2, 3))) == []
    assert list(module._counterparts(parts(1, 2, 3), parts(1, new, new + 1, 3))) == [(new + 1, 2)]
    assert list(module._counterparts(parts(1, 2, 3), parts(new, 3, new + 1))) == [(new, 2)]
    assert list(module._counterparts(parts(1, 2), parts(new, new + 1))) == [(new + 1, 2), (new, 1)]


def test_a_leaf_that_is_new_throughout_keeps_no_base(store: walkv.Store) -> None:
    # It compresses to less than half, but not because of the old one.
    sequence = [
        packed(base64.b16encode(random.Random(seed).randbytes(5000)) * 4) for seed in (1, 2)
    ]
    put_all(store, States(PREFIX), sequence)
    assert {value[:1] for value in parts_of(store).values()} == {b"\0"}


def test_chains_are_bounded_and_begin_anew(store: walkv.Store) -> None:
    rng = random.Random(3)
    text = bytearray(rng.randbytes(4000))
    sequence = []
    for _ in range(300):
        text[rng.randrange(1000, 3000)] = rng.randrange(256)
        sequence.append(packed(bytes(text)))
    recipes = put_all(store, States(PREFIX), sequence)
    lengths = [links(store, number) for number in sorted(parts_of(store)) if number]
    assert max(lengths) == deltas.MAX_LINKS == 30
    assert lengths.count(0) == 2
    assert lengths[:34] == [*range(16), *range(1, 17), 2, 3]
    states = States(PREFIX)
    for recipe, state in zip(recipes, sequence, strict=True):
        assert states.read(store, 1, recipe) == state


def test_the_cache_is_bounded_and_only_a_cache(store: walkv.Store) -> None:
    one_state_bytes = module.PART_COST_BYTES * 60
    states = States(PREFIX, cache_bytes=3 * one_state_bytes)
    recipes = put_all(store, states, [packed(conversation(50, n=n)) for n in range(20)])
    assert 0 < states._cached_bytes <= 3 * one_state_bytes
    assert list(states._cache)[-1] == (1, recipes[-1])
    assert len(parts_of(store)) == 50
    put(store, states, packed(conversation(51)), recipes[0])
    assert len(parts_of(store)) == 51
    for _ in range(5):
        states.write(store.transaction(), 1, states.prepare(store, 1, packed({"n": 1}), None))
    costs = [module._cost_bytes(recipe, parts) for (_, recipe), parts in states._cache.items()]
    assert states._cached_bytes == sum(costs)
    oldest = next(iter(states._cache))
    states.prepare(store, 1, packed(conversation(52)), oldest[1])
    assert list(states._cache)[-1] == oldest


def test_an_abandoned_write_does_no_harm(store: walkv.Store) -> None:
    states = States(PREFIX)
    first = put(store, states, packed(conversation(30)))
    abandoned = store.transaction()
    lost = states.prepare(store, 1, packed(conversation(31)), first)
    states.write(abandoned, 1, lost)
    abandoned.discard()
    other = packed(conversation(30) | {"messages": [message(99)]})
    recipes = [
        put(store, states, other, first),
        put(store, states, packed(conversation(31)), first),
    ]
    with store.transaction() as transaction:
        recipes.append(states.write(transaction, 1, lost))
    expected = [other, packed(conversation(31)), packed(conversation(31))]
    assert [states.read(store, 1, recipe) for recipe in recipes] == expected


# -- what is kept --------------------------------------------------------------------------------


def leaf_sequence(count: int) -> list[bytes]:
    base = fill(7, 12_000)
    return [
        packed(conversation(5 + step, 600, draft=base[: 6000 + step] + str(step) + base[6000:]))
        for step in range(count)
    ]


@pytest.mark.parametrize("kept", [[], [0], [39], [5, 20], [17], list(range(0, 40, 3))])
def test_collect_keeps_what_is_needed_and_no_more(store: walkv.Store, kept: list[int]) -> None:
    states = States(PREFIX)
    sequence = leaf_sequence(40)
    recipes = put_all(store, states, sequence)
    live = [recipes[at] for at in kept]
    needed: set[int] = set()
    parts = parts_of(store)
    for recipe in live:
        for piece in decoded(1, recipe)[2]:
            if type(piece) is tuple:
                needed.update(range(piece[0], piece[0] + piece[1]))
    for number in sorted(parts, reverse=True):
        if number in needed and parts[number][:1] == b"\1":
            needed.add(msgpack.unpackb(parts[number][1:])[0])
    sizes = {number: len(value) for number, value in parts.items()}
    kept_bytes = sum(sizes[number] for number in needed)
    assert states.size_bytes(store, 1, live) == kept_bytes + sum(map(len, live))
    assert collect(store, states, live) == sum(sizes.values()) - kept_bytes
    assert set(parts_of(store)) == needed
    assert collect(store, states, live) == 0
    for at in kept:
        assert States(PREFIX).read(store, 1, recipes[at]) == sequence[at]


def test_numbers_are_never_used_again(store: walkv.Store) -> None:
    states = States(PREFIX)
    put(store, states, packed(conversation(10)))
    last = max(parts_of(store))
    collect(store, states, [])
    assert parts_of(store) == {}
    put(store, states, packed(conversation(10)))
    assert min(parts_of(store)) == last + 1


def test_a_previous_state_that_is_gone_is_not_built_on(store: walkv.Store) -> None:
    states = States(PREFIX)
    first = put(store, states, packed(conversation(10, draft=fill(1, 9000))))
    collect(store, states, [])
    # The cache does not know; the caller, who looks for the record, does.
    state = packed(conversation(10, draft=fill(1, 9000) + "more"))
    states.prepare(store, 1, state, first)
    recipe = put(store, States(PREFIX), state, first)
    assert States(PREFIX).read(store, 1, recipe) == state


def test_pools_do_not_see_each_other(store: walkv.Store) -> None:
    states = States(PREFIX)
    state = packed(conversation(20))
    recipes = {pool: put(store, states, state, pool=pool) for pool in (1, 2, 256)}
    other = packed(conversation(20, 900))
    second = put(store, states, other, recipes[2], pool=2)
    # A recipe of another pool is the recipe of nothing.
    third = put(store, states, state, recipes[1], pool=3)
    assert states.read(store, 3, third) == state
    with store.transaction() as transaction:
        states.drop(transaction, 3)
    assert len(parts_of(store, 2)) == 2 * len(parts_of(store, 1))
    with store.transaction() as transaction:
        states.drop(transaction, 1)
    assert {key[2:10] for key in store.scan(PREFIX, keys_only=True)} == {
        pool.to_bytes(8, "big") for pool in (2, 256)
    }
    assert collect(store, states, [], pool=256) > len(state) * 0.9
    assert states.read(store, 2, recipes[2]) == state
    assert states.read(store, 2, second) == other
    with pytest.raises(CorruptionError):
        states.read(store, 1, recipes[1])


# -- damage --------------------------------------------------------------------------------------


def reads_or_raises(store: walkv.Store, recipe: bytes, state: bytes) -> bool:
    """Whether a state is read; if not, it is a ``CorruptionError`` that says where."""
    caught: CorruptionError | None = None
    try:
        assert States(PREFIX).read(store, 1, recipe) == state
    except CorruptionError as error:
        caught = error
    assert caught is None or (caught.path == "" and "pool 1" in caught.reason)
    return caught is None


def test_every_missing_part_is_named(store: walkv.Store) -> None:
    sequence = leaf_sequence(20)
    recipes = put_all(store, States(PREFIX), sequence)
    last = max(parts_of(store))
    number = last
    while parts_of(store)[number][:1] == b"\1":
        number = msgpack.unpackb(parts_of(store)[number][1:])[0]
        value = store.get(key_of(number))
        store.delete(key_of(number))
        with pytest.raises(CorruptionError, match=f"pool 1 .* part {number} is missing"):
            States(PREFIX).read(store, 1, recipes[-1])
        store.put(key_of(number), value)
    put(store, States(PREFIX), packed(conversation(30)), pool=2)
    store.delete(key_of(20, pool=2))
    with pytest.raises(CorruptionError, match="1 to 30 some are missing"):
        States(PREFIX).read(store, 2, packed([1, 0, 40_000, 1, 30]))
    for number in range(1, 6):
        store.delete(key_of(number))
        assert not reads_or_raises(store, recipes[0], sequence[0])


def test_flipped_bytes_never_give_another_state(store: walkv.Store) -> None:
    sequence = leaf_sequence(6)
    recipes = put_all(store, States(PREFIX), sequence)
    rng = random.Random(4)
    for number, value in parts_of(store).items():
        for at in {0, 1, 2, 3, *range(4, min(len(value), 60)), rng.randrange(len(value))}:
            broken = bytearray(value)
            broken[at] ^= 1 << rng.randrange(8)
            store.put(key_of(number), bytes(broken))
            read = [reads_or_raises(store, *pair) for pair in zip(recipes, sequence, strict=True)]
            # A few bits of zstd's frames and of msgpack's heads mean nothing.
            assert value[:1] == b"\1" or not all(read)
            put(store, States(PREFIX), sequence[-1] + b"x", recipes[-1])
        store.put(key_of(number), b"")
        read = [reads_or_raises(store, *pair) for pair in zip(recipes, sequence, strict=True)]
        assert not all(read)
        store.put(key_of(number), value)


@pytest.mark.parametrize("at", range(5))
def test_hostile_deltas_are_refused(store: walkv.Store, at: int) -> None:
    sequence = leaf_sequence(3)
    recipes = put_all(store, States(PREFIX), sequence)
    number = max(n for n, value in parts_of(store).items() if value[:1] == b"\1")
    fields = msgpack.unpackb(parts_of(store)[number][1:])
    claims = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 20))
    bomb = b"\x28\xb5\x2f\xfd\xe0" + (1 << 29).to_bytes(8, "little") + b"\x01\0\0"
    assert zstandard.frame_content_size(bomb) == 1 << 29
    for hostile in (
        *([*fields[:at], wrong, *fields[at + 1 :]] for wrong in (-1, None, 1 << 63, b"x", [0])),
        [*fields[:5], bomb],
        [*fields[:5], claims],
        [*fields[:5], b""],
        [number, *fields[1:]],
        fields[:-1],
        [*fields, 0],
        dict.fromkeys(range(6)),
    ):
        store.put(key_of(number), b"\1" + packed(hostile))
        if at != 1 and at != 2:
            assert not reads_or_raises(store, recipes[-1], sequence[-1])
        put(store, States(PREFIX), sequence[-1] + b"x", recipes[-1])


def test_a_cycle_of_deltas_ends(store: walkv.Store) -> None:
    recipe = put(store, States(PREFIX), packed(fill(1, 5000)))
    frame = zstandard.ZstdCompressor().compress(b"")
    for number in range(1, 100):
        base = number - 1 or 99
        store.put(key_of(number), b"\1" + packed([base, 1, 1, 0, 0, frame]))
    hostile = packed([1, *msgpack.unpackb(recipe)[1:3], 99, 1])
    for claimed in (recipe, hostile):
        with pytest.raises(CorruptionError):
            States(PREFIX).read(store, 1, claimed)
        with pytest.raises(CorruptionError, match="a later part"):
            collect(store, States(PREFIX), [claimed])


def test_a_chain_that_is_too_long_is_refused(store: walkv.Store) -> None:
    content = fill(1, 3000).encode()
    recipe = put(store, States(PREFIX), content)
    frame = zstandard.ZstdCompressor().compress(b"")
    for number in range(2, 40):
        fields = [number - 1, 1, 1, len(content), 0, frame]
        store.put(key_of(number), b"\1" + packed(fields))
    for number in range(2, 40):
        claimed = packed([*msgpack.unpackb(recipe)[:3], number, 1])
        assert reads_or_raises(store, claimed, content) == (number <= 1 + deltas.MAX_LINKS)


HOSTILE_FIELDS = st.lists(
    st.one_of(
        st.sampled_from(
            [0, 1, 2, 3, 5, 1 << 40, (1 << 64) - 1, -1, None, True, b"", b"x", "x", 0.5]
        ),
        st.binary(max_size=20),
        st.lists(st.integers(0, 3), max_size=3),
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(
    hostile=st.one_of(
        st.binary(max_size=60),
        HOSTILE_FIELDS.map(packed),
        HOSTILE_FIELDS.map(lambda rest: packed([1, 7, 1 << 30, *rest])),
        st.tuples(st.integers(0, 200), st.integers(0, 255)),
    )
)
def test_hostile_recipes_are_refused(folder: Path, hostile: bytes | tuple[int, int]) -> None:
    with walkv.open(folder, sync=walkv.WriteBack()) as store:
        states = States(PREFIX)
        state = packed(conversation(20, draft=fill(1, 5000)))
        good = put(store, states, state)
        if type(hostile) is tuple:
            at = hostile[0] % len(good)
            hostile = good[:at] + bytes((hostile[1],)) + good[at + 1 :]
        assert isinstance(hostile, bytes)
        reads_or_raises(store, hostile, state)
        try:
            states.size_bytes(store, 1, [good, hostile])
        except CorruptionError:
            with pytest.raises(CorruptionError):
                collect(store, states, [good, hostile])
        assert states.read(store, 1, good) == state
        assert states.read(store, 1, put(store, states, state, hostile)) == state


def test_a_state_that_is_too_long_is_refused(
    store: walkv.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_STATE_BYTES", 1000)
    put(store, States(PREFIX), bytes(1000))
    with pytest.raises(walkv.LimitError) as caught:
        States(PREFIX).prepare(store, 1, bytes(1001))
    assert (caught.value.name, caught.value.actual) == ("MAX_STATE_BYTES", 1001)


class Counting:
    """A reader that counts what it gives."""

    def __init__(self, store: walkv.Store) -> None:
        self.store = store
        self.count = 0

    def get(self, key: bytes) -> bytes | None:
        self.count += 1
        return self.store.get(key)

    def scan(self, *bounds: Any, **options: Any) -> Iterator[Any]:
        for entry in self.store.scan(*bounds, **options):
            self.count += 1
            yield entry


def test_claimed_counts_cost_nothing(store: walkv.Store) -> None:
    good = put(store, States(PREFIX), packed(conversation(20)))
    digest = msgpack.unpackb(good)[1]
    for length_bytes, pieces in [
        (1 << 60, [1, 1 << 59]),
        (1 << 60, [1, 20] * 100_000),
        (50_000, [1, 20] * 100_000),
        (20_000, [1, 20, 1, 20]),
        (15, [1, 20]),
        (20_000, [(1 << 64) - 5, 20]),
        (1 << 60, [b"x"] * 100_000),
    ]:
        reader: Any = Counting(store)
        with pytest.raises(CorruptionError):
            States(PREFIX).read(reader, 1, packed([1, digest, length_bytes, *pieces]))
        assert reader.count <= (0 if length_bytes in (15, 1 << 60) else 80)
    assert collect(store, States(PREFIX), [packed([1, digest, 1, 1, 1 << 62])]) == 0
