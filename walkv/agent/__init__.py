"""Every namespace behind one object: what an agent must not lose.

    with walkv.AgentStore("agent.walkv") as agent:
        agent.sessions.create("s1", user_id="ada")
        agent.messages.append("s1", role="user", content="hello")

Invariants:
    1. All faces of an agent are made of one set of classes, one engine and one log.
    2. Namespaces are registered, and their indexes built, before anything is written to them.

    namespaces    one face's set of them, and how a store gets to know them
    threads       ``AgentStore``
    tasks         ``AsyncAgentStore``
"""

from walkv.agent.tasks import AsyncAgentStore
from walkv.agent.threads import AgentStore

__all__ = ["AgentStore", "AsyncAgentStore"]
