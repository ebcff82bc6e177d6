"""Calls to an ACME server, each on a thread of its own, through the `acme` library.

Here: requests and what their failures mean. Not here: which certificate is ordered, and when; DNS. What the library
lacks is added: several tries after a refused nonce, `replaces` in an order (RFC 9773), the server's Retry-After.
"""

import asyncio
import base64
import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import requests
from acme import challenges, errors, messages
from acme.client import ClientNetwork, ClientV2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy import errors as josepy_errors
from josepy.json_util import field
from josepy.jwa import ES256
from josepy.jwk import JWKEC
from portway_runtime.printable import printable_line
from portway_runtime.tasks import fail
from portway_runtime.threads import start_thread

from portway_registry.acme.server_settings import ServerSettings
from portway_registry.errors import AcmeFailed

T = TypeVar("T")

_REQUEST_TIME: Final = 20  # seconds for one request
# Servers refuse a nonce that they have forgotten; pebble refuses one in 20 on purpose.
_NONCE_TRIES: Final = 8
_LONGEST_REASON: Final = 500  # characters
_USER_AGENT: Final = "portway-registry"
_LONGEST_RETRY_AFTER: Final = 7 * 86_400.0  # seconds

# What RFC 9773 has a client take for a server that does not say when to ask again.
_ASK_AGAIN: Final = datetime.timedelta(hours=6)
# Codes of errors after which the same order is tried once more without `replaces`.
_NOT_REPLACED: Final = frozenset({"alreadyReplaced", "malformed", "unauthorized"})


@dataclass(frozen=True, slots=True)
class DnsChallenge:
    """A TXT record that shows whose a name is: at `name`, with `value`."""

    name: str
    value: str
    body: messages.ChallengeBody
    authorization: messages.AuthorizationResource


@dataclass(frozen=True, slots=True)
class Order:
    """An order, and the challenges that are open for it."""

    resource: messages.OrderResource
    challenges: tuple[DnsChallenge, ...]


class _Network(ClientNetwork):
    """The library's, with several tries for a nonce; keeps the last Retry-After."""

    retry_after = 0.0

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(_NONCE_TRIES):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
                refused = error
        raise refused

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        response = super()._send_request(method, url, *args, **kwargs)
        self.retry_after = 0.0
        if response.status_code in (429, 503):
            until = ClientV2.retry_after(response, 0) - datetime.datetime.now()  # noqa: DTZ005 - as the library does
            self.retry_after = min(max(until.total_seconds(), 0.0), _LONGEST_RETRY_AFTER)
        return response


class _NewOrder(messages.NewOrder):
    """An order that says which certificate it replaces."""

    replaces: str | None = field("replaces", omitempty=True)


class _Client(ClientV2):
    def order(self, csr_pem: bytes, names: Sequence[str], replaces: str | None) -> messages.OrderResource:
        """As new_order, with `replaces` where the server knows it."""
        identifiers = [messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name) for name in names]
        response = self._post(self.directory["newOrder"], _NewOrder(identifiers=identifiers, replaces=replaces))
        body = messages.Order.from_json(response.json())
        found = [self._authzr_from_response(self._post_as_get(url), uri=url) for url in body.authorizations]
        return messages.OrderResource(
            body=body, uri=response.headers.get("Location"), authorizations=found, csr_pem=csr_pem
        )

    @property
    def tells_renewal(self) -> bool:
        """Whether the server offers renewal information (RFC 9773)."""
        return "renewalInfo" in self.directory.to_partial_json()


class Connection:
    """One account's requests, for one order; `close` at the end. Every method raises AcmeFailed.

    A cancelled call goes on on its thread for as long as a request may take, and its result is dropped.
    """

    def __init__(self, settings: ServerSettings, key_pem: bytes, account: str) -> None:
        """key_pem: the account's P-256 key. account: its URL; "" for one that is to be registered."""
        key = load_pem_private_key(key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._settings = settings
        self._key = JWKEC(key=key)
        verify: Any = True if settings.ca is None else str(settings.ca)
        self._network = _Network(self._key, alg=ES256, verify_ssl=verify, user_agent=_USER_AGENT, timeout=_REQUEST_TIME)
        if account:
            self._network.account = messages.RegistrationResource(body=messages.Registration(), uri=account)
        self._client: _Client | None = None

    async def register(self) -> str:
        """The URL of the account for the key, which is made unless there is one. Its owner agrees to the server's
        terms of service."""
        return await self._call(self._register)

    async def order(self, names: Sequence[str], csr_pem: bytes, replaces: bytes | None) -> Order:
        """Order a certificate. replaces: the one before (PEM, from this server)."""
        return await self._call(lambda: self._order(names, csr_pem, replaces))

    async def answer(self, challenge: DnsChallenge) -> None:
        """Let the server look at the TXT record now."""
        response = challenge.body.chall.response(self._key)
        await self._call(lambda: self._opened().answer_challenge(challenge.body, response))

    async def is_checked(self, challenge: DnsChallenge) -> bool:
        """Whether the server has looked, and has found what it wants. Raises AcmeFailed with what it found else."""
        return await self._call(lambda: self._is_checked(challenge))

    async def finish(self, order: Order, within: float) -> bytes:
        """The certificate's chain (PEM) of an order whose challenges are all checked; `within` seconds."""

        def finish() -> bytes:
            until = datetime.datetime.now() + datetime.timedelta(seconds=within)  # noqa: DTZ005 - the library's
            return str(self._opened().finalize_order(order.resource, until).fullchain_pem).encode()

        return await self._call(finish)

    async def renewal_window(self, certificate: bytes) -> tuple[tuple[int, int] | None, int]:
        """Between which times the server wants a certificate (PEM) to be renewed, None when it says nothing, and when
        it wants to be asked again. Milliseconds since the Unix epoch."""
        return await self._call(lambda: self._renewal_window(certificate))

    async def revoke(self, certificate: bytes, reason: int) -> None:
        """Revoke a certificate (PEM). One that is revoked already is no failure."""
        leaf = x509.load_pem_x509_certificate(certificate)
        try:
            await self._call(lambda: self._opened().revoke(leaf, reason))
        except AcmeFailed as failed:
            if failed.code != "alreadyRevoked":
                raise

    def close(self) -> None:
        self._network.session.close()

    def _opened(self) -> _Client:
        if self._client is None:
            directory = ClientV2.get_directory(self._settings.directory, self._network)
            self._client = _Client(directory, self._network)
        return self._client

    def _register(self) -> str:
        client, settings = self._opened(), self._settings
        binding = None
        if settings.binding is not None:
            kid, mac = settings.binding
            binding = messages.ExternalAccountBinding.from_data(self._key.public_key(), kid, mac, client.directory)
        elif client.external_account_required():
            raise AcmeFailed(
                "the ACME server demands an external account binding: give --acme-eab-key-id and --acme-eab-key-file",
                code="externalAccountRequired",
            )
        wanted = messages.NewRegistration.from_data(
            email=settings.email, terms_of_service_agreed=True, external_account_binding=binding
        )
        try:
            return str(client.new_account(wanted).uri)
        except errors.ConflictError as known:  # an earlier try registered it
            self._network.account = messages.RegistrationResource(body=messages.Registration(), uri=known.location)
            return str(known.location)

    def _order(self, names: Sequence[str], csr_pem: bytes, replaces: bytes | None) -> Order:
        client = self._opened()
        number = renewal_id(replaces) if replaces and client.tells_renewal else None
        try:
            resource = client.order(csr_pem, names, number)
        except (messages.Error, errors.ConflictError) as error:
            if number is None or (isinstance(error, messages.Error) and error.code not in _NOT_REPLACED):
                raise
            resource = client.order(csr_pem, names, None)
        return Order(resource, tuple(self._challenges(resource)))

    def _challenges(self, order: messages.OrderResource) -> Iterator[DnsChallenge]:
        """Of names whose owner is not known to the server already."""
        for authorization in order.authorizations:
            body = authorization.body
            if body.status == messages.STATUS_VALID:
                continue
            offered = [one for one in body.challenges if isinstance(one.chall, challenges.DNS01)]
            if not offered:
                raise AcmeFailed(f"the ACME server offers no DNS-01 challenge for {body.identifier.value}")
            chall = offered[0].chall
            name = chall.validation_domain_name(body.identifier.value)
            yield DnsChallenge(name, chall.validation(self._key), offered[0], authorization)

    def _renewal_window(self, certificate: bytes) -> tuple[tuple[int, int] | None, int]:
        client, number = self._opened(), renewal_id(certificate)
        again = datetime.datetime.now() + _ASK_AGAIN  # noqa: DTZ005 - the library's times have no zone
        if number is None or not client.tells_renewal:
            return None, _milliseconds(again)
        response = self._network.get(f"{client.directory['renewalInfo']}/{number}")
        window = messages.RenewalInfo.from_json(response.json()).suggested_window
        again = client.retry_after(response, int(_ASK_AGAIN.total_seconds()))
        return (_milliseconds(window.start), _milliseconds(window.end)), _milliseconds(again)

    def _is_checked(self, challenge: DnsChallenge) -> bool:
        body = self._opened().poll(challenge.authorization)[0].body
        if body.status in (messages.STATUS_PENDING, messages.STATUS_PROCESSING):
            return False
        if body.status == messages.STATUS_VALID:
            return True
        found = next((one.error for one in body.challenges if one.error is not None), None)
        raise AcmeFailed(_line(f"{challenge.name} was not accepted: {found or body.status}"), code=_code(found))

    async def _call(self, function: Callable[[], T]) -> T:
        def translated() -> T:
            with self._translating():
                return function()

        return await on_thread(translated)

    def _not_acme(self, error: Exception) -> str:
        """What an answer was that the library has no words for, such as a web server's 404; "" for another error."""
        response = next((one for one in error.args if isinstance(one, requests.Response)), None)
        if response is None:
            return ""
        what = f"{response.url} answers with HTTP status {response.status_code}"
        return f"{self._settings.directory} does not answer as an ACME server does: {what}; is --acme-directory right?"

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except AcmeFailed:
            raise
        except (errors.Error, josepy_errors.Error) as error:
            text = self._not_acme(error) or str(error) or type(error).__name__
            raise AcmeFailed(_line(text), code=_code(error), retry_after=self._network.retry_after) from error
        except (requests.RequestException, OSError) as error:
            text = f"{self._settings.directory} cannot be reached: {error}"
            raise AcmeFailed(_line(text), code="unreachable") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            # What the library does with an answer that is not ACME's.
            text = f"{self._settings.directory} does not answer as an ACME server does: {error!r}"
            raise AcmeFailed(_line(text)) from error


async def on_thread(function: Callable[[], T]) -> T:
    """What `function` returns or raises, run on a daemon thread: a process that ends does not wait for a slow server.

    Cancelled, its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            fail(future, error)
        elif not future.done():
            future.set_result(result)  # type: ignore[arg-type]  # it is a T where there is no error

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop has ended meanwhile
            pass

    start_thread(run, "acme")
    return await future


def renewal_id(certificate: bytes) -> str | None:
    """How a certificate (PEM) is named in renewal information and in `replaces`: base64url of its issuer's key id and
    of its serial number (RFC 9773, section 4.1). None for one without the former."""
    leaf = x509.load_pem_x509_certificate(certificate)
    try:
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None
    if issuer is None:
        return None
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1, "big")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (issuer, serial))


def _milliseconds(time: datetime.datetime) -> int:
    """Of the library's times, those without a zone are local."""
    return int(time.timestamp() * 1000)


def _code(error: object) -> str:
    return str(error.code or "") if isinstance(error, messages.Error) else ""


def _line(text: str) -> str:
    return printable_line(" ".join(text.split()))[:_LONGEST_REASON]
