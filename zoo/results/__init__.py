"""Records of measurements, and the tables and pictures made of them.

table         the one table writer: records as text, Markdown, CSV or HTML
records       the records, one kind for each thing that is measured
environment   the machine and the versions they belong to
files         the one file format that holds them
means         what many records come down to
views         each kind of record as a table
plots         and as pictures
report        all of it as one page, Markdown, CSV or PNG
"""
