"""Every error of this distribution.

RuntimeFault
├── UsageFault         a command line that cannot be read
├── SettingsError      a flag, variable, file or value that cannot be used; says which and what would do
├── CertificateError   a certificate, key or CA that cannot be read or does not fit; says which file
├── ListenError        an address that cannot be listened on
├── NoDescriptors      this process can open no more descriptors now
├── NoThread           this process can start no more threads now
├── ProxyFailed        an HTTP proxy that gives no connection; names it and says what to do
└── AddressNotAllowed  another party's address that may not be dialled from here
"""


class RuntimeFault(Exception):
    """Base of every error this distribution raises."""


class UsageFault(RuntimeFault):
    """A command line that cannot be read. `with_usage`: the message after the lines that show what can."""

    def __init__(self, with_usage: str, message: str) -> None:
        super().__init__(message)
        self.with_usage = with_usage


class SettingsError(RuntimeFault):
    """A setting that cannot be used."""


class CertificateError(RuntimeFault):
    """A certificate, key or CA that cannot be used. `exhausted`: only now, because
    something that loading takes, such as a descriptor, has run out; the same files may do later."""

    def __init__(self, message: str, *, exhausted: bool = False) -> None:
        super().__init__(message)
        self.exhausted = exhausted


class ListenError(RuntimeFault):
    """An address that cannot be listened on. `port_taken`: only this port is in use; another one may be free."""

    def __init__(self, message: str, *, port_taken: bool = False) -> None:
        super().__init__(message)
        self.port_taken = port_taken


class NoDescriptors(RuntimeFault):
    """This process can open no more descriptors now; the message says what to raise."""


class NoThread(RuntimeFault):
    """This process can start no more threads now; the message says what to raise."""


class ProxyFailed(RuntimeFault):
    """An HTTP proxy gives no connection. The message names the proxy, without its login, and says what to do.

    lasting: trying again does not help, somebody has to change something first.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class AddressNotAllowed(RuntimeFault):
    """Another party's address that may not be dialled from here. `named`: it was given by a name, not as an address."""

    def __init__(self, message: str, *, named: bool) -> None:
        super().__init__(message)
        self.named = named
