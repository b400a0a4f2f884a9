"""Loads URLs from the host (`ports.HttpPort`); inside an environment the fence does that instead."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

SECONDS = 30
MOST_BYTES = 16 << 20


class HostHttp:
    """A plain loader: http and https only, bounded in time and size."""

    async def get(self, url: str) -> tuple[bytes, str]:
        """Errors: `OSError` in words."""
        return await asyncio.to_thread(_get, url)


def _get(url: str) -> tuple[bytes, str]:
    if not url.lower().startswith(("https://", "http://")):
        raise OSError(f"{url} is neither http nor https")
    request = urllib.request.Request(url, headers={"User-Agent": "mlld", "Accept": "*/*"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            body = response.read(MOST_BYTES + 1)
            kind = response.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise OSError(f"{url} cannot be reached: {error.reason}") from error
    if len(body) > MOST_BYTES:
        raise OSError(f"{url} is larger than {MOST_BYTES >> 20} MiB")
    return body, kind
