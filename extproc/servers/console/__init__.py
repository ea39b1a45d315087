"""Web pages for people: log in, see what waits, decide, look things up. Rendered here; works without JavaScript.

`app.py` is the map of it: every path with its handler. A page asks `Deciding` as the API does, so both doors have the
same rules and leave the same records.
"""

from extproc.servers.console.app import Ways, create_console
from extproc.servers.console.sessions import Entered, LoginError

__all__ = ["Entered", "LoginError", "Ways", "create_console"]
