"""`portway-admin tenant`: tenants and their quotas."""

from typing import Any

import click
from portway_proto.v1.admin_pb2 import ListTenantsRequest, SetTenantQuotaRequest, TenantInfo

from portway_registry.admin_cli.connection import GlobalOptions, json_option, pass_options
from portway_registry.admin_cli.output import print_list, print_result
from portway_registry.admin_cli.table import Column

_COLUMNS = tuple(map(Column, ("TENANT", "MAX TUNNELS", "TUNNELS", "TOKENS")))
_DEFAULT = "default"


class _Quota(click.IntRange):
    """A number of tunnels, or "default", which is read as 0."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return 0 if value == _DEFAULT else super().convert(value, param, ctx)


@click.group()
def tenant() -> None:
    """Tenants, who own tokens and tunnels: list, set quotas."""


@tenant.command("list")
@json_option
@pass_options
def list_(options: GlobalOptions) -> None:
    """List the tenants: how many tunnels each may have, how many are open, how many tokens open them."""
    with options.calls() as calls:
        found = [one for page in calls.pages(calls.stub.ListTenants, ListTenantsRequest()) for one in page.tenants]
    print_list(options, "tenants", found, _json, _COLUMNS, _row, "There is no tenant.")


@tenant.command("set-quota")
@click.argument("name")
@click.argument("max_tunnels", type=_Quota(min=1, max=1_000_000))
@json_option
@pass_options
def set_quota(options: GlobalOptions, name: str, max_tunnels: int) -> None:
    """Let a tenant have MAX_TUNNELS tunnels open at once, of all its tokens together.

    "default" takes the number back: then the registry's --max-tunnels holds. Tunnels over the new number end at once,
    the newest first.
    """
    request = SetTenantQuotaRequest(name=name, max_tunnels=max_tunnels)
    with options.calls() as calls:
        info = calls.call(calls.stub.SetTenantQuota, request).tenant
    tokens = "no token yet" if not info.tokens else f"{info.tokens} tokens"
    text = f"Tenant {info.name} ({tokens}) may have {_quota(info)} tunnels open at once."
    print_result(options, _json(info), text)


def _json(info: TenantInfo) -> dict[str, object]:
    """A tenant for programs, with the names of the protocol's TenantInfo."""
    return {
        "name": info.name,
        "max_tunnels": info.max_tunnels,
        "is_default": info.is_default,
        "tunnels": info.tunnels,
        "tokens": info.tokens,
    }


def _row(info: TenantInfo) -> list[str]:
    return [info.name, _quota(info), str(info.tunnels), str(info.tokens)]


def _quota(info: TenantInfo) -> str:
    return f"{info.max_tunnels} ({_DEFAULT})" if info.is_default else str(info.max_tunnels)
