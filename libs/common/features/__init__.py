"""Features as models read them: names, layout, windows and the online reader.

Owned by the features service's contract; inference reads through it, training computes the same
vectors offline with the same derivations. Needs numpy.
"""
