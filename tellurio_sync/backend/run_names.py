"""Names for runs that have no name: an adjective, a noun, a number."""

from __future__ import annotations

import random

_ADJECTIVES = (
    "amber bold brave bright brisk calm clear clever cosy crisp curious eager early fair fine fresh gentle glad golden "
    "happy humble jolly keen kind lively lucky merry mild neat noble open patient plain proud quick quiet rapid ready "
    "silent smart snowy soft steady sunny swift tidy vivid warm wise witty"
)
_NOUNS = (
    "anchor apple basil beacon birch bridge brook canyon cedar cloud comet coral crane delta ember falcon fern forest "
    "garden glacier harbor hazel heron island jasper lagoon lantern lemon maple meadow mesa nectar oasis olive orchard "
    "otter pebble pepper pine plum prairie quartz raven reef river saffron sparrow summit thistle tiger valley willow"
)


def new_run_name() -> str:
    """A name like ``brave_harbor_417``."""
    return f"{random.choice(_ADJECTIVES.split())}_{random.choice(_NOUNS.split())}_{random.randint(1, 999)}"
