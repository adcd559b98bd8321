"""Every reader against damaged and odd files: clear errors only, and nothing absurd taken for good.

Run from the root of the repository: ``python -m benchmarks.fuzz_readers [--quick] [--count 2000]
[--reader cif] [--keep DIR] [--real DIR]``. Files written by ASE, pymatgen and whorl itself (with ``--real``,
CIFs of a folder too) are mutated: bits flipped, lines and tokens deleted, doubled, swapped and replaced by
odd values, two files spliced, encodings changed, headers of stores rewritten without their checksum. Each
input is read in a process with limits of time and memory. What was read must pass
:func:`whorl.structures.find_problems`, and be the same when it is written and read again.

Columns count inputs; ``skipped`` means that every entry was skipped with a reason. The exit code is 1 where
there was another exception than ``InputError``, a hang, a blow-up of memory, a wrong accept, or a message
too long to read. The same ``--seed`` makes the same inputs.
"""
