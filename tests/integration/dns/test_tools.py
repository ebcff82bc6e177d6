"""Programs that others wrote against a node's DNS servers: dig, kdig, delv, and a resolver that minimises names."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK, Cluster
from portway_testkit.clusters.dns_mesh import ADDRESSES, LABEL, data, dns_mesh
from portway_testkit.processes.ports import free_port
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.waiting import eventually

NAME = f"{LABEL}.fra.{DOMAIN}"
pytestmark = pytest.mark.shares_sockets

# unbound answers for "localhost" by itself unless it is told not to. It would follow the name servers' addresses, where
# nobody is in this test: those of a stub whose records are not primed are asked alone.
_UNBOUND = """
server:
    interface: 127.0.0.1@{port}
    directory: "{folder}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    num-threads: 1
    module-config: "iterator"
    do-not-query-localhost: no
    qname-minimisation: yes
    qname-minimisation-strict: yes
    use-caps-for-id: yes
    local-zone: "localhost." nodefault
    do-ip6: no
    outgoing-range: 64
    num-queries-per-thread: 32
remote-control:
    control-enable: no
stub-zone:
    name: "{domain}"
    stub-addr: {at}
    stub-prime: no
"""


def run(program: str, *words: str) -> str:
    ended = subprocess.run([needed(program), *words], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode in (0, 9), ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests of this file, which change nothing."""
    with dns_mesh(tmp_path_factory.mktemp("mesh")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def at(mesh: Cluster) -> list[str]:
    """dig's words for the first node's server."""
    server = mesh.nodes["fra-1"].dns
    mesh.admin.add_dns_record("@", "CAA", '0 issue "letsencrypt.org"')
    mesh.admin.add_dns_record("deep.er", "TXT", '"x"')
    mesh.admin.add_dns_record("mine", "CNAME", f"{NAME}.")
    mesh.admin.add_dns_record("gone", "CNAME", f"nothing.{DOMAIN}.")
    for number in range(30):
        mesh.admin.add_dns_record("big", "TXT", '"' + f"{number:03d}" * 60 + '"')
    mesh.admin.add_dns_record("last", "TXT", '"x"')
    eventually(lambda: len(data(mesh, "fra-1", "", "NS")) == 3 and data(mesh, "fra-1", "last", "TXT"))
    return [f"@{server.host}", "-p", str(server.port)]


def test_dig(at: list[str]) -> None:
    """Records, codes and flags as the program that every operator has shows them."""
    assert len(run("dig", *at, "+short", NAME).split()) == 3
    assert len(run("dig", *at, "+short", "+tcp", NAME, "AAAA").split()) == 3
    assert set(run("dig", *at, "+short", f"fra.{DOMAIN}").split()) == {ADDRESSES["fra-1"], ADDRESSES["fra-2"]}
    answer = run("dig", *at, "+norecurse", NAME)
    assert "status: NOERROR" in answer
    assert "flags: qr aa; QUERY: 1, ANSWER: 3, AUTHORITY: 0, ADDITIONAL: 1" in answer
    assert "WARNING" not in answer
    for words, status in (
        ([f"nothing.{DOMAIN}"], "NXDOMAIN"),
        ([f"er.{DOMAIN}"], "NOERROR"),
        (["example.com"], "REFUSED"),
        ([DOMAIN, "ANY"], "NOERROR"),
        ([NAME, "TYPE65280"], "NOERROR"),
        (["version.bind", "TXT", "CH"], "REFUSED"),
        ([NAME, "+edns=1", "+noednsneg"], "BADVERS"),
        ([NAME, "+opcode=NOTIFY"], "NOTIMP"),
        ([NAME, "+cookie", "+nsid", "+dnssec", "+bufsize=4096"], "NOERROR"),
    ):
        assert f"status: {status}" in run("dig", *at, *words), words
    assert "; CLIENT-SUBNET: 192.0.2.0/24/24" in run("dig", *at, NAME, "+subnet=192.0.2.0/24")
    assert "RFC8482" in run("dig", *at, DOMAIN, "ANY")
    assert "Transfer failed" in run("dig", *at, DOMAIN, "AXFR")
    assert "letsencrypt" in run("dig", *at, DOMAIN, "CAA")


def test_aliases(at: list[str]) -> None:
    """What they lead to, or that it is not there, with the SOA for which resolvers keep that."""
    for program, counts in (("dig", "ANSWER: {}, AUTHORITY: {}"), ("kdig", "ANSWER: {}; AUTHORITY: {}")):
        for words, status, answer, authority in (
            (["mine"], "NOERROR", 4, 0),
            (["mine", "AAAA"], "NOERROR", 4, 0),
            (["mine", "MX"], "NOERROR", 1, 1),
            (["gone"], "NXDOMAIN", 1, 1),
            (["gone", "TXT"], "NXDOMAIN", 1, 1),
            (["gone", "CNAME"], "NOERROR", 1, 0),
        ):
            shown = run(program, *at, f"{words[0]}.{DOMAIN}", *words[1:], "+norecurse")
            assert f"status: {status}" in shown, (program, words)
            assert counts.format(answer, authority) in shown, (program, words, shown)
            assert "WARNING" not in shown
    for words, found in ((["mine", "A"], "192.0.2."), (["mine", "MX"], "$NXRRSET"), (["gone", "A"], "$NXDOMAIN")):
        assert found in run("delv", *at, "-i", f"{words[0]}.{DOMAIN}", words[1]), words


def test_dig_comes_over_tcp_for_what_was_cut(at: list[str]) -> None:
    assert "flags: qr aa tc" in run("dig", *at, f"big.{DOMAIN}", "TXT", "+ignore", "+norecurse")
    whole = run("dig", *at, f"big.{DOMAIN}", "TXT")
    assert "Truncated, retrying in TCP mode" in whole
    assert "ANSWER: 30" in whole


def test_dig_shows_the_name_servers(at: list[str]) -> None:
    """With their addresses, which the zone above repeats."""
    found = run("dig", *at, DOMAIN, "NS", "+norecurse")
    assert "ANSWER: 3" in found
    assert len(re.findall(r"^ns\d\.localhost\.\s+300\s+IN\s+A\s", found, re.MULTILINE)) == 3
    soa = run("dig", *at, DOMAIN, "SOA")
    assert re.search(r"ns1\.localhost\. hostmaster\.localhost\. \d+ 3600 600 604800 30", soa)


def test_kdig(at: list[str]) -> None:
    """Another implementation, which is strict about what comes back."""
    big = f"big.{DOMAIN}"
    for words in ([NAME], [NAME, "+tcp"], [NAME, "AAAA", "+edns"], [DOMAIN, "SOA"], [big, "TXT", "+tcp", "+keepopen"]):
        answer = run("kdig", *at, *words)
        assert "status: NOERROR" in answer
        assert "WARNING" not in answer, answer
    assert "status: NXDOMAIN" in run("kdig", *at, f"nothing.{DOMAIN}")


def test_delv(at: list[str]) -> None:
    """A validator, which is told not to look for the chain above: it takes the records as they are."""
    assert "192.0.2." in run("delv", *at, "-i", NAME, "A")


def resolved(resolver: tuple[str, int], name: str, kind: str = "A") -> dns.message.Message:
    host, port = resolver
    answer, _ = dns.query.udp_with_fallback(dns.message.make_query(name, kind), host, timeout=5, port=port)
    return answer


@pytest.fixture
def resolver(mesh: Cluster, at: list[str], tmp_path: Path) -> Iterator[tuple[str, int]]:
    """unbound, which asks one label at a time (RFC 9156), strictly, and mixes the case of letters."""
    server = mesh.nodes["fra-1"].dns
    port = free_port()
    settings, log = tmp_path / "unbound.conf", tmp_path / "unbound.log"
    settings.write_text(_UNBOUND.format(port=port, folder=tmp_path, domain=DOMAIN, at=f"{server.host}@{server.port}"))

    def answers() -> bool:
        try:
            return resolved((LOOPBACK, port), DOMAIN, "SOA").rcode() == dns.rcode.NOERROR
        except (OSError, dns.exception.Timeout):
            return False

    with RunningProgram([needed("unbound"), "-d", "-c", settings], {}, log):
        eventually(answers, shown=log.read_text)
        yield LOOPBACK, port


def test_a_resolver_that_minimises_names(resolver: tuple[str, int]) -> None:
    """Each name on the way exists, so that it gets to the last one; what does not exist it does not find."""
    for number in range(20):
        answer = resolved(resolver, f"label{number:011d}.fra.{DOMAIN}")
        assert (answer.rcode(), len(answer.answer[0])) == (dns.rcode.NOERROR, 3)
        assert answer.answer[0].ttl <= 30
    assert resolved(resolver, f"deep.er.{DOMAIN}", "TXT").answer
    assert resolved(resolver, f"fra.{DOMAIN}").answer
    assert not resolved(resolver, f"fra.{DOMAIN}", "MX").answer
    assert resolved(resolver, f"a.b.nothing.{DOMAIN}").rcode() == dns.rcode.NXDOMAIN
    assert [len(rrset) for rrset in resolved(resolver, f"mine.{DOMAIN}").answer] == [1, 3]
    for _ in range(2):  # the second time from its memory, where the SOA has it kept
        nothing = resolved(resolver, f"mine.{DOMAIN}", "MX")
        assert (nothing.rcode(), len(nothing.answer), len(nothing.authority)) == (dns.rcode.NOERROR, 1, 1)
        assert resolved(resolver, f"gone.{DOMAIN}").rcode() == dns.rcode.NXDOMAIN
    assert len(resolved(resolver, f"big.{DOMAIN}", "TXT").answer[0]) == 30
