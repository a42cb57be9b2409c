"""Starts the stand-in of the Hub and points the client to it.

The client reads its address once, when it is imported: import this before anything that imports timm. So no
test can reach the real Hub either, nor wait for a network that is not there.
"""

import os
import tempfile

from hub_server import HubServer

__all__ = ["HUB", "HubServer"]

_FOLDER = tempfile.TemporaryDirectory(prefix="glczoo-hub-")
_USERS = {  # by token
    "write": {"name": "me", "role": "write", "orgs": ["glczoo", "my-org"]},
    "read": {"name": "me", "role": "read"},
    "stranger": {"name": "you", "role": "write"},
}
HUB = HubServer(_FOLDER.name, _USERS).start()
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HUB_DISABLE_XET": "1",  # the stand-in speaks LFS only
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
