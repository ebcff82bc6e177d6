"""Why a registry did not do what it was asked, for people."""

import grpc

from portway_relay.config import REGISTRY_NAME


def reason_of(code: grpc.StatusCode, details: str) -> str:
    """What the end of a call means here, and what to look at."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "its certificate was not issued by this cluster's CA (--cluster-ca)"
    if "Hostname Verification" in details:
        return (
            f"its certificate is neither for {REGISTRY_NAME} nor for the name in --registry: is this a registry's mesh "
            "port?"
        )
    if "CERTIFICATE_REQUIRED" in details or "UNKNOWN_CA" in details or "BAD_CERTIFICATE" in details:
        return "it does not accept this node's certificate (--cert): were both made with the same CA?"
    return f"{code.name.lower().replace('_', ' ')}: {details}"
