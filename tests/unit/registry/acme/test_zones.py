"""Which certificates a cluster needs, and that none is ever for a tunnel's own name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from portway_proto.wire.labels import label_of_key
from portway_registry.acme.zones import demand_public, is_region_zone, wanted_zones
from portway_registry.names import names_a_tunnel

DOMAIN = "tun.example.com"
LABEL = label_of_key(bytes(32))

labels = st.binary(min_size=32, max_size=32).map(label_of_key)
regions = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


def test_each_region_and_the_registry_have_one() -> None:
    """A region's is for its own name and for every label below it."""
    assert wanted_zones(["iad", "fra", "fra"], DOMAIN, DOMAIN) == {
        DOMAIN: (DOMAIN,),
        "fra.tun.example.com": ("fra.tun.example.com", "*.fra.tun.example.com"),
        "iad.tun.example.com": ("iad.tun.example.com", "*.iad.tun.example.com"),
    }
    assert wanted_zones([], DOMAIN, None) == {}
    assert wanted_zones([], DOMAIN, "registry.example.com") == {"registry.example.com": ("registry.example.com",)}


@settings(max_examples=50)
@given(label=labels, region=regions)
def test_a_node_of_no_region_gets_none(label: str, region: str) -> None:
    """A record in the store may be damaged, or from somebody who broke into it: what has a dot is no region."""
    for hostile in (f"{label}.{region}", f"*.{region}", f"{label}.{region}.x", "", "-", f"{region}.", "fra\n", "Fra"):
        assert wanted_zones([hostile], DOMAIN, None) == {}


@settings(max_examples=50)
@given(label=labels, region=regions)
def test_a_tunnels_name_is_never_ordered(label: str, region: str) -> None:
    """Certificate transparency would publish it. The last check, of the names themselves, is by their form alone."""
    for name in (
        f"{label}.{region}.{DOMAIN}",
        f"*.{label}.{region}.{DOMAIN}",
        f"x.{label}.{region}.{DOMAIN}",
        f"{region}.{label}.{DOMAIN}",
        f"*.{region}.{region}.{DOMAIN}",
        f"*.{DOMAIN}",
        f"a*.{region}.{DOMAIN}",
        f"*.*.{region}.{DOMAIN}",
        "*.example.org",
    ):
        with pytest.raises(ValueError, match="would be published"):
            demand_public([f"{region}.{DOMAIN}", name], DOMAIN)


@settings(max_examples=50)
@given(found=st.sets(regions, max_size=5))
def test_what_is_wanted_may_be_published(found: set[str]) -> None:
    """Whatever regions there are."""
    for names in wanted_zones(found, DOMAIN, DOMAIN).values():
        demand_public(names, DOMAIN)


def test_a_domain_that_looks_like_a_label_is_one_of_its_own() -> None:
    """Only what is in front of it may be a tunnel's."""
    domain = f"{LABEL}.example.com"
    demand_public([f"fra.{domain}", f"*.fra.{domain}", domain], domain)
    assert not names_a_tunnel(f"fra.{domain}", domain)
    assert names_a_tunnel(f"{LABEL}.fra.{domain}", domain)


def test_zones_of_regions_are_told_from_the_registrys_name() -> None:
    """Nodes are handed the former alone."""
    assert is_region_zone("fra.tun.example.com", DOMAIN)
    for other in (DOMAIN, "example.com", f"{LABEL}.fra.tun.example.com", ".tun.example.com", "fra.tun.example.org"):
        assert not is_region_zone(other, DOMAIN)
