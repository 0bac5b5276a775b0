"""Synthetic labelled images with diffusion models: the program behind the book.

The modules of this folder are the chapters, each with one entry, `run`, which takes parameters and returns a
result; gan makes their baseline, trainsets the sets of chapters 6 and 7. Each line below imports only from
itself and from the lines above it:

    base                         errors, seeds, parameters, devices, artifacts on disk
    measures                     features, distances, copies, overlap
    work                         from one work item to many
    pairs                        images with masks: drawn, read, checked, written
    models                       diffusion, guidance, segmentation, SinGAN
    cluster, train, inpaint, style, gan, evaluate, trainsets, segment, augment
    planning                     costs and errors, told beforehand
    report                       figures, tables, claims, the book
    cli                          the command `diffusegen`
"""

__version__ = "0.1.0"
