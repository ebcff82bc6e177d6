"""The entry point of portway-admin: what has to be done before gRPC is imported, which reads its settings then, and
log lines for what would go past the log."""

from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.logs import configure_command
from portway_runtime.standard_streams import open_standard_streams
from portway_runtime.uncaught import log_uncaught


def main() -> None:
    """Run the command."""
    open_standard_streams()
    silence_grpc()
    configure_command("portway-admin")
    log_uncaught()
    from portway_registry.admin_cli.cli import main as run

    run()
