"""Reading what language models and their endpoints answer.  No I/O: texts and bytes in, plain values out.

=================  ============================================================================================
``completion``     the body of an HTTP response -> the text, the thoughts, the tokens, or what it was instead
``thoughts``       a text -> what the model thought aloud, and the answer
``loose_json``     a text with prose, fences and thoughts around -> the JSON objects in it
``answers``        an answer -> feedback, a judgement, new data for a parameter; or the reason why not
=================  ============================================================================================

Models are loose: they think aloud, chat around the answer, wrap it in fences, break the rules of JSON, and are cut off.
Two rules hold all the same.  **The last complete form counts**, never a draft: a form inside thoughts, or before
another one, is a draft.  **Every reader is linear in time**: each character is read a fixed number of times at most,
whatever was sent; no regular expression here can go back over its match.
"""
