"""How an etcd cluster is: each member that the registry has an endpoint of is asked by itself, and one that answers for
the list of members and of alarms.

Every call has the time limit of one try; nothing is tried again: who asks wants to know what does not answer.
"""

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import Final

import grpc
from portway_runtime.clocks import monotonic

from portway_registry.errors import StoreError
from portway_registry.store.contract import MemberHealth, StoreHealth
from portway_registry.store.etcd.calls import ask
from portway_registry.store.etcd.members import TRY_SECONDS, Member, Members
from portway_registry.store.etcd_api import rpc_pb2

_KIND: Final = "etcd"


async def health(members: Members) -> StoreHealth:
    """How each member is, and whether a read that needs a majority is answered."""
    asked, failure = await asyncio.gather(
        asyncio.gather(*(_ask_member(members, member) for member in members.all())), _read(members)
    )
    listed, alarms = await asyncio.gather(_list(members), _alarms(members)) if not failure else ([], {})
    found = []
    for number, one in asked:
        known = next((each for each in listed if number == each.ID), None)
        named = one if known is None else replace(one, name=known.name, learns=known.isLearner)
        found.append(replace(named, alarms=tuple(sorted(alarms.get(number, ())))))
    answered = {number for number, _ in asked}
    silent = {endpoint.endpoint for number, endpoint in asked if not number}
    for each in listed:
        if each.ID in answered:
            continue
        at = _endpoint_of(each, silent)
        rest = MemberHealth(name=each.name, learns=each.isLearner, alarms=tuple(sorted(alarms.get(each.ID, ()))))
        if at:
            found = [replace(one, name=each.name) if one.endpoint == at else one for one in found]
        else:
            found.append(rest)
    return StoreHealth(_KIND, tuple(found), failure)


def _endpoint_of(listed: rpc_pb2.Member, silent: set[str]) -> str:
    """The endpoint in the settings of a member that did not answer there, by the URLs that it is known by."""
    urls = {url.partition("://")[2].rstrip("/") for url in listed.clientURLs}
    return next(iter(urls & silent), "")


async def _ask_member(members: Members, member: Member) -> tuple[int, MemberHealth]:
    """Its id, 0 when it does not answer, and how it is."""
    began = monotonic()
    try:
        async with asyncio.timeout(TRY_SECONDS):
            metadata = await members.metadata(member)
            status = await member.maintenance.Status(rpc_pb2.StatusRequest(), metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return 0, MemberHealth(endpoint=member.endpoint, failure=error.details() or error.code().name)
    except TimeoutError:
        return 0, MemberHealth(endpoint=member.endpoint, failure=f"no answer within {TRY_SECONDS} s")
    number = status.header.member_id
    return number, MemberHealth(
        endpoint=member.endpoint,
        version=status.version,
        size=status.dbSize,
        used=status.dbSizeInUse,
        leads=status.leader == number != 0,
        learns=status.isLearner,
        applied=status.raftAppliedIndex,
        round_trip=monotonic() - began,
    )


async def _read(members: Members) -> str:
    """Why a read is not answered, which needs a majority; "" when it is."""
    request = rpc_pb2.RangeRequest(key=b"/portway/", limit=1, keys_only=True)
    try:
        await ask(members, lambda member, metadata: member.kv.Range(request, metadata=metadata))
    except StoreError as error:
        return str(error)
    return ""


async def _list(members: Members) -> list[rpc_pb2.Member]:
    request = rpc_pb2.MemberListRequest()
    try:
        answer = await ask(members, lambda member, metadata: member.cluster.MemberList(request, metadata=metadata))
    except StoreError:  # a user without permission: those with an endpoint are known
        return []
    return list(answer.response.members)


async def _alarms(members: Members) -> dict[int, set[str]]:
    request = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
    found: dict[int, set[str]] = defaultdict(set)
    try:
        answer = await ask(members, lambda member, metadata: member.maintenance.Alarm(request, metadata=metadata))
    except StoreError:  # as above
        return found
    for one in answer.response.alarms:
        found[one.memberID].add(rpc_pb2.AlarmType.Name(one.alarm))
    return found
