"""Which addresses lie on the open internet, for whatever fetches what others name: nothing may lead into a private network."""

import ipaddress


def is_public(address: str) -> bool:
    """Tell whether an address is on the open internet.

    >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("127.0.0.1"), is_public("169.254.169.254"), is_public("::1")
    (True, False, False, False, False)
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return found.is_global and not found.is_multicast
