"""Which certificates a cluster needs: one for each region that has a node, one for the registry's own name.

Here: the names of each, and the rule that no certificate is ever for a single label. Certificate transparency publishes
every name of every certificate, and a tunnel's label is the secret in its URL.
"""

from collections.abc import Iterable

from portway_runtime.identities import DNS_LABEL

from portway_registry.names import names_a_tunnel


def region_zone(region: str, domain: str) -> str:
    """`<region>.<domain>`."""
    return f"{region}.{domain}"


def wanted_zones(regions: Iterable[str], domain: str, registry_name: str | None) -> dict[str, tuple[str, ...]]:
    """The names of each certificate, by zone. What is no region's name is left out: it may be from a damaged record.

    registry_name: None when the registry's own certificate is from elsewhere.
    """
    zones: dict[str, tuple[str, ...]] = {} if registry_name is None else {registry_name: (registry_name,)}
    for region in sorted(set(regions)):
        if DNS_LABEL.fullmatch(region):
            zone = region_zone(region, domain)
            zones[zone] = (zone, f"*.{zone}")
    return zones


def is_region_zone(zone: str, domain: str) -> bool:
    """Whether it is `<region>.<domain>`, with a region of one part."""
    region, dot, rest = zone.partition(".")
    return bool(dot) and rest == domain and DNS_LABEL.fullmatch(region) is not None


def demand_public(names: Iterable[str], domain: str) -> None:
    """Raise ValueError unless all these names may be published: no tunnel's host name, and `*` in front of a region's
    zone alone."""
    for name in names:
        bare = name.removeprefix("*.")
        if "*" in bare or names_a_tunnel(bare, domain) or (bare != name and not is_region_zone(bare, domain)):
            raise ValueError(f"no certificate is ever requested for {name!r}: it would be published")
