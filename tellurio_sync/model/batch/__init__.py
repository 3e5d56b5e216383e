"""``with batch():`` many Variables are made, and changed, in one round trip.

``block`` says which thread is in a block, ``queue`` what it has queued and when that is sent, ``items`` and ``changes``
what can be queued, ``dataset`` makes the Variables of many rows.
"""
