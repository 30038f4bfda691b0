"""Names that would be markup."""

from __future__ import annotations

NASTY = '</title><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202e{{ 7 * 7 }}'
