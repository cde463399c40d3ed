"""All clients in this process: a Grid that calls the ClientApp directly.

The very ServerApp and ClientApp objects that Flower's own engines run, without workers to start:
a round of ten clients costs milliseconds, runs are reproducible, and a debugger sees everything.
Messages are copied on the way in and on the way out, so no client shares memory with the server.

Flower builds some of a message's identity from the process it runs in; the three private names
needed for that (`TaskIdentity`, `Run.create_empty`, a message id) are used here and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

RUN_ID = 1


class InlineGrid(Grid):
    """A Grid whose nodes are calls of one ClientApp.

    Parameters
    ----------
    client_app : flwr.clientapp.ClientApp
        What every node runs.
    count : int
        Number of nodes; node `i` holds partition `i`.
    """

    def __init__(self, client_app: ClientApp, count: int) -> None:
        self._client_app = client_app
        self._run = Run.create_empty(run_id=RUN_ID)
        node_ids = np.random.default_rng(0).choice(2**62, count, replace=False) + 2
        self._contexts = {
            int(node_id): Context(
                run_id=RUN_ID,
                node_id=int(node_id),
                node_config={"partition-id": partition, "num-partitions": count},
                state=RecordDict(),
                run_config={},
            )
            for partition, node_id in enumerate(node_ids)
        }
        self._replies: dict[str, Message] = {}
        self._messages = 0
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = (
            1,
            RUN_ID,
            SUPERLINK_NODE_ID,
        )

    def set_run(self, run: Run) -> None:
        """Set the run this grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run this grid works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes, in the order of their partitions."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the client of each message at once, and keep its reply."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out the replies to these messages, once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run the client of each message and return the replies, in the same order."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        message_id = self._identify(message)
        received = self.create_message(
            copy.deepcopy(message.content),
            message.metadata.message_type,
            message.metadata.dst_node_id,
            message.metadata.group_id,
            message.metadata.ttl,
        )
        self._identify(received, message_id)
        try:
            answer = self._client_app(received, self._contexts[message.metadata.dst_node_id])
            reply = Message(copy.deepcopy(answer.content), reply_to=received)
        except Exception as error:  # as in Flower's engines: the client failed, the run goes on
            reason = f"{type(error).__name__}: {error}"
            failure = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
            reply = Message(failure, reply_to=received)
        self._identify(reply)
        self._replies[message_id] = reply
        return message_id

    def _identify(self, message: Message, message_id: str | None = None) -> str:
        if message_id is None:
            self._messages += 1
            message_id = f"inline-{self._messages}"
        message.metadata.__dict__["_message_id"] = message_id
        return message_id


class InlineBackend:
    """Run all clients in this process, one after another."""

    def run(self, server_app: ServerApp, client_app: ClientApp, count: int) -> None:
        """Run the server against `count` clients; see `Backend.run`."""
        context = Context(
            run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config={}
        )
        server_app(grid=InlineGrid(client_app, count), context=context)
