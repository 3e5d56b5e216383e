"""Language models: behind OpenAI-compatible HTTP endpoints, or functions of the client's.

===============  ==============================================================================================
``models``       :class:`LanguageModels`: asks, asks again where that may help, and reports each question
``settings``     what a client may configure of a model; whose key goes to which address
``exchange``     one HTTP request and its response: bounded in time and size, proxies, certificates, causes
``learnt``       what an endpoint has refused to take, so that it is not sent a second time
``again``        whether a request is made again, and after which pause
``budget``       what all questions of a session may cost
``cache``        answers on disk, for questions that were asked before
``embeddings``   vectors for texts
``in_flight``    the same question, asked by several at the same time, is asked once
``lingering``    cancelled requests that are still paid for, until their cost is known
``pace``         how many questions at once, and how many a minute
===============  ==============================================================================================

Only the event loop's thread uses this package.  The package ``reading`` reads what an endpoint's response says.
"""

from .budget import Budget
from .cache import AnswerCache
from .models import LanguageModels, OnQuestion

__all__ = ["AnswerCache", "Budget", "LanguageModels", "OnQuestion"]
