"""What runs on this machine, as one: the registry, the relay node, and what the first start of them needs.

Here: the order of start and stop. Not here: a process (child.py), calls (registry_calls.py), the delegation
(delegation.py).
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from portway_registry.config import Config
from portway_relay.cli import REMOVED
from portway_relay.errors import RelayError
from portway_relay.membership.state_folder import StateFolder
from portway_runtime.clocks import utc_now
from portway_runtime.identities import dns_names
from portway_runtime.secret_files import replace_file

from portway_server.child import Child, command_as
from portway_server.clock import clock_ahead, judge_clock
from portway_server.config import MachineConfig
from portway_server.delegation import await_delegation
from portway_server.environment import for_registry, for_relay
from portway_server.errors import CallDenied, CallFailed, CannotWrite, ChildEnded
from portway_server.registry_calls import calling, operators_calls
from portway_server.writing import acting_as, make_folder

logger = logging.getLogger(__name__)

FIRST_CLIENT: Final = "first-client"
_LOOK_EVERY: Final = 1.0  # seconds, while a certificate is awaited
_TENANT: Final = "default"
_DESCRIPTION: Final = "first client"


class Up:
    """The programs of one machine. Needs a running loop."""

    def __init__(
        self,
        config: MachineConfig,
        environment: Mapping[str, str],
        *,
        log: int,
        on_ready: Callable[[str], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """
        environment: this process's, of which each program is given what it reads.
        log: the descriptor that their log lines are written to.
        on_ready: called once all is ready, with what to print: the first client's line at the start that made it, at
            later ones where it is, without the token; "" when there is none.
        on_failure: called with ChildEnded when a program ended by itself: all is to be stopped then.
        """
        self._config = config
        self._environment = environment
        self._log = log
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._children: list[Child] = []

    async def start(self) -> None:
        """Start the registry, and the relay node once it has joined; return when visitors and clients may come.

        Before the first certificates are obtained the domain has to be delegated: a certificate authority counts names
        that it looked up in vain, and its resolvers remember that they are not there. Before its first start the node
        joins by an invitation that is made for it. While something is waited for (the delegation, certificates, a
        store), the log says for what. Raises ServerError, with nothing left running.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        own, relay, registry = self._config.own, self._config.relay, self._config.registry
        await self._look_at_clock()
        if self._obtains_first_certificates():
            await await_delegation(relay.domain, relay.public_address, own.resolver)
        node, token, line = None, "", ""
        if registry is not None and own.registry_config is not None:
            serving = await self._run_registry(own.registry_config)
            node = await self._run_node() if self._is_member() else None
            await serving.serves()
            token = _token(registry)
            if token and node is None:
                await self._join(registry, token)
        node = node or await self._run_node()
        await node.serves()
        if registry is not None and token:
            try:
                if registry.acme_directory is not None and registry.tls_cert is None:
                    await _await_certificate(registry, token, own.registry_user)
                line = await self._ensure_first_client(registry, token)
            except CallDenied:
                logger.info("the first admin's token is not valid any more: no first client's token is made")
        self._on_ready(line or self._where_first_client_is())

    def _obtains_first_certificates(self) -> bool:
        """Whether this machine's registry is to obtain the node's certificate by the node's own answers to DNS, and has
        not yet."""
        relay, registry = self._config.relay, self._config.registry
        if registry is None or registry.acme_directory is None or not relay.dns_listen or self._is_member():
            return False  # a machine that joined is led to by others' name servers
        folder = relay.zones_folder
        return folder is None or not folder.is_dir() or not any(folder.iterdir())

    async def _look_at_clock(self) -> None:
        """Warn of a wrong clock, which other failures follow from."""
        directory = None if self._config.registry is None else self._config.registry.acme_directory
        ahead = None if directory is None else await clock_ahead(directory, utc_now)
        if ahead is not None and (fault := judge_clock(ahead)):
            logger.warning("%s", fault)

    async def stop(self) -> None:
        """Stop the relay node, whose visits may finish, then the registry. May be called again."""
        while self._children:
            await self._children.pop().stop()

    def reload(self) -> None:
        """Have the programs read their certificates again."""
        for child in self._children:
            child.reload()

    async def _run_registry(self, settings: Path) -> Child:
        return await self._run(
            "portway-registry", settings, for_registry(self._environment), self._config.own.registry_user
        )

    async def _run_node(self) -> Child:
        own, environment = self._config.own, for_relay(self._environment)
        return await self._run("portway-relay", own.relay_config, environment, own.relay_user, "net_bind_service")

    async def _run(
        self,
        program: str,
        settings: Path,
        environment: Mapping[str, str],
        user: str | None,
        capability: str | None = None,
    ) -> Child:
        path = Path(sys.executable).with_name(program)
        child = Child(
            program,
            command_as(user, [str(path), "serve", "--config", str(settings)], capability),
            environment,
            log=self._log,
            on_end=self._ended,
            on_failure=self._on_failure,
        )
        await child.start()
        self._children.append(child)
        return child

    def _ended(self, end: ChildEnded) -> None:
        if end.code == REMOVED and self._config.registry is not None:
            logger.warning(
                "an operator removed this machine's node, and its registry goes on without it: stop `portway-server`, "
                "delete the node's state_dir and start again, to have the node back"
            )
            return
        logger.error("%s; all of this machine's programs are stopped", end)
        self._on_failure(end)

    def _is_member(self) -> bool:
        """Whether the node has a certificate that is its own and has not ended. It needs no registry to start then: it
        serves the tunnels that it hears of from other nodes."""
        relay = self._config.relay
        if relay.state_dir is None:
            return True  # it was given its certificate
        folder = StateFolder(relay.state_dir)
        try:
            with acting_as(self._config.own.relay_user):
                if folder.invitation is None:
                    return False
                certificate = folder.certificate()
        except RelayError as error:
            raise CannotWrite(str(error)) from error
        except (OSError, KeyError) as error:
            raise CannotWrite(f"cannot look at {folder.path} as {self._config.own.relay_user}: {error}") from error
        return relay.server_name in dns_names(certificate) and certificate.not_valid_after_utc > utc_now()

    async def _join(self, registry: Config, admin_token: str) -> None:
        """Have the node join at the registry that runs here. Raises CallFailed and CannotWrite."""
        relay = self._config.relay
        assert relay.state_dir is not None, "a node without one was given its certificate"
        folder, own = StateFolder(relay.state_dir), self._config.own
        try:
            async with operators_calls(registry, admin_token, own.registry_user) as calls:
                token = await calls.invite(relay.region, relay.name)
            invitation = token.split("_")[1]
            make_folder(relay.state_dir, own.relay_user)
            with acting_as(own.relay_user):
                csr = folder.joining_request(invitation, relay.name)
            async with calling(registry.listen, token, own.registry_user) as calls:
                certificate = await calls.join(relay.name, relay.region, csr)
            with acting_as(own.relay_user):
                folder.store_joined(invitation, certificate)
        except RelayError as error:
            raise CannotWrite(str(error)) from error
        except (OSError, KeyError) as error:
            raise CannotWrite(f"cannot give {relay.state_dir} to {own.relay_user}: {error}") from error
        logger.info("this machine's node joined the cluster", extra={"node": relay.name})

    async def _ensure_first_client(self, registry: Config, admin_token: str) -> str:
        """Make the first client's token, if there was none before. Its line; "" when none was made. Raises CallFailed
        and CannotWrite."""
        path = self._first_client_file()
        if path.exists():
            return ""
        async with operators_calls(registry, admin_token, self._config.own.registry_user) as calls:
            if await calls.has_client_tokens():
                return ""
            token = await calls.create_client_token(_TENANT, _DESCRIPTION)
        line = f"PORTWAY_REGISTRY={self._config.own.registry_name} PORTWAY_TOKEN={token}"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, f"{line}\n".encode())
        except OSError as error:
            raise CannotWrite(f"cannot write to {path}: {error.strerror}") from error
        logger.info("the first client's token is made", extra={"file": str(path)})
        return line

    def _first_client_file(self) -> Path:
        return self._config.own.state_dir / FIRST_CLIENT

    def _where_first_client_is(self) -> str:
        """A shell's line too. What supervises `up` may keep what is printed, at each start."""
        path = self._first_client_file()
        return (
            f"PORTWAY_REGISTRY={self._config.own.registry_name}  # PORTWAY_TOKEN is in {path}" if path.exists() else ""
        )


def _token(registry: Config) -> str:
    """The first admin's token; "" where it is not on this machine."""
    file = registry.first_admin_token_file()
    try:
        return "" if file is None else file.read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise CallFailed(f"{file}, the first admin's token, cannot be read: {error.strerror}") from error


async def _await_certificate(registry: Config, admin_token: str, user: str | None) -> None:
    """Return once the registry, which runs as `user`, has a certificate of its name; its log says what it waits for.
    Raises CallFailed."""
    while True:
        async with operators_calls(registry, admin_token, user) as calls:
            if any(one.zone == registry.called and one.until_ms for one in await calls.certificates()):
                return
        await asyncio.sleep(_LOOK_EVERY)
