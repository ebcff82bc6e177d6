"""Regions of the cluster whose names this node cannot serve, because it has no certificate for them.

Here: which they are, and that operators learn of it. Not here: the refusal of their visitors (ingress/).
"""

import logging
from collections.abc import Callable, Collection

from portway_relay.certificates import LoadedCertificates

logger = logging.getLogger(__name__)


class LackingRegions:
    """The regions without a certificate, as of the last look."""

    def __init__(
        self, domain: str, certificates: Callable[[], LoadedCertificates], regions: Callable[[], Collection[str]]
    ) -> None:
        """regions: those of the cluster, as far as this node knows them."""
        self._domain = domain
        self._certificates = certificates
        self._regions = regions
        self.zones: frozenset[str] = frozenset()  # the `<region>.<domain>` of each

    @property
    def regions(self) -> list[str]:
        """Their names."""
        return sorted(zone.removesuffix(f".{self._domain}") for zone in self.zones)

    def look(self) -> None:
        """Look again, after a list of nodes or other certificates have come. Each region is logged once, until it has a
        certificate."""
        certified = self._certificates().zones.keys()
        zones = frozenset(f"{region}.{self._domain}" for region in self._regions()) - certified
        for zone in sorted(zones - self.zones):
            logger.warning(
                "no certificate for the names of a region, whose visitors are refused here: give it with --tls-cert "
                "and --tls-key, or let registries obtain it (--acme-directory); if they do, `portway-admin certificate "
                "list` says why it is not there",
                extra={"region": zone.removesuffix(f".{self._domain}"), "names": f"*.{zone}"},
            )
        for zone in sorted(self.zones & certified):
            logger.info("the names of a region are served now", extra={"names": f"*.{zone}"})
        self.zones = zones
