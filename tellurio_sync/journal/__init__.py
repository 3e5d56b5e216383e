"""The journal: files with the values that a run has logged, before and while they are sent to the server.

    format.py    one writer's file as bytes, both ways: records in, values out; no files, no threads
    writer.py    appends records to a file, one write(2) each; survives a full disk
    folder.py    the folder of one run: its name, how it ended, its writers, and how much of each the server has

The local backend reads the same format: what is sent to it are the bytes of these files.
"""
