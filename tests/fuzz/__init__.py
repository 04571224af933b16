"""Arbitrary and mutated input through everything that reads what others wrote: typed errors only, bounded cost.

`python -m tests.fuzz --cases 200000` runs on all cores. Each case is drawn from one whole number, its seed, and costs
nothing to repeat: `--target NAME --seed SEED --cases 1`.

    mutations      texts, JSON values and bytes, made wrong
    bounds         one case: what it may cost, and what it may raise
    replies        HTTP replies through every verb of `asyncgen.replies`, and on through `asyncgen.images`
    prompt_files   files of prompts, from their bytes to the body that would be sent and the path of the picture
    batch_files    batch files, from their text to the requests of a row in each cell
    names          titles, ids, templates and file names to paths, on the real file system too
    registries     styles registries: loaded, changed, saved
    workflows      graphs and their bindings, loaded and filled

Every target is a `make`, which draws a case from a random source, and a `judge`, which puts it through asyncgen, checks
what must hold, and returns words for what it saw: the tally shows that good and bad cases were both met.
"""
