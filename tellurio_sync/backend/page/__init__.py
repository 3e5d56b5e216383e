"""Pages for the browser: projects, their runs, and of a run the metrics as plots and the parameters' values.

Access.  Every page needs the key, also on loopback, which other users of this machine can reach as well.
A person types it once into a form, or uses the link that the backend prints at its start.  The ``token`` of that link
is derived from the key, and opens only these pages, never the API.  The browser then keeps the token in a cookie
(HttpOnly, SameSite=Strict, until it is closed).  On a loopback address the ``Host`` header must name a loopback
address, too: a name of another site that was made to point here (DNS rebinding) gets nothing.  On other addresses any
name is accepted; there, as with the API, everything can be read on the way.

What they hold.  Made on the server by Jinja2 (``templates``), which escapes all texts, and readable without script;
modules of script (``static``) draw plots and fetch what changed when the server says so (server-sent events).  Nothing
comes from anywhere else, and the Content-Security-Policy allows just these scripts and styles, by their hashes, and
the one library from the backend itself.  What is shown is read in threads of its own (``reader``), one question to the
records per module of ``queries``, so a page over a million values keeps no client waiting.

==============  ==================================================================================
``handlers``    addresses, access, what is sent in which form
``pages``       from an address and the records to the values of a template
``queries``     one module per question to the records
``templates``   one per page
``static``      style, scripts, and uPlot with its licence
==============  ==================================================================================
"""

from .handlers import Page

__all__ = ["Page"]
