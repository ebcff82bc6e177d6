"""Which ACME server a registry uses, by its settings. Reads the files that they name, so that a wrong one is found at
the start."""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from portway_runtime.certificates import parse_certificates
from portway_runtime.errors import CertificateError

from portway_registry.config import Config
from portway_registry.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Which ACME server, and how an account is made there.

    ca: the CA of the server's own certificate (PEM); None for the usual ones. binding: the key id and the HMAC key
    (base64url) of an external account binding.
    """

    directory: str
    ca: Path | None = None
    email: str | None = None
    binding: tuple[str, str] | None = None


def server_settings(config: Config) -> ServerSettings | None:
    """The ACME server of the settings; None without one. Reads its files. Raises ConfigError, also for other settings
    that do not fit it."""
    config.check_acme()
    if config.acme_directory is None:
        return None
    if config.acme_ca is not None:
        file = config.required_file("acme_ca")
        try:
            parse_certificates(file.read(), file)
        except CertificateError as error:
            raise ConfigError(str(error)) from error
    return ServerSettings(config.acme_directory, config.acme_ca, config.acme_email, _binding(config))


def _binding(config: Config) -> tuple[str, str] | None:
    if (config.acme_eab_key_id is None) != (config.acme_eab_key_file is None):
        raise ConfigError("--acme-eab-key-id and --acme-eab-key-file go together: give both or neither")
    if config.acme_eab_key_id is None:
        return None
    file = config.required_file("acme_eab_key_file")
    try:
        text = file.read().decode("ascii").strip()
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except CertificateError as error:
        raise ConfigError(str(error)) from error
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ConfigError(f"{file} holds no key of an external account binding: it is one line of base64url") from error
    return config.acme_eab_key_id, text.rstrip("=")
