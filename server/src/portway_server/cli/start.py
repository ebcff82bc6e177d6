"""The entry point of portway-server: what has to be done before gRPC is imported, which reads its settings then."""

from portway_runtime.grpc_channels import silence_grpc
from portway_runtime.standard_streams import open_standard_streams


def main() -> None:
    """Run the command and exit."""
    open_standard_streams()
    silence_grpc()
    from portway_server.cli.commands import commands

    commands(prog_name="portway-server")
