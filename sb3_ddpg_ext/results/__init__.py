"""
What a run gave: its record, which training writes and everybody reads, and what can be computed from records.

``records``     the typed record of a run
``result_file`` its file, ``result.json``
``provenance``  the versions and the machine that a record names
``scales``      what scores of the usual environments mean
``statistics``  means, intervals and tests for few runs
"""
