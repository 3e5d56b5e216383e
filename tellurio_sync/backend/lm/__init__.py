"""Language models: behind OpenAI-compatible HTTP endpoints, or functions of the client's.

===============  ==============================================================================================
``models``       :class:`LanguageModels`: asks, again where that may help, and tells of each question
``settings``     what a client may configure of a model; whose key goes to which address
``exchange``     one HTTP request and its response: bounded in time and size, proxies, certificates, causes
``learnt``       what an endpoint was found not to take, so that it is not sent a second time
``pace``         how many questions at once, and how many a minute
===============  ==============================================================================================

The event loop's thread only.  What an endpoint's response says is read in the package ``reading``.
"""

from .models import LanguageModels, OnQuestion

__all__ = ["LanguageModels", "OnQuestion"]
