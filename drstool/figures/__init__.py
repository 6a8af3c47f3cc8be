"""Figures of several images and methods: what is in their cells, where the cells go, and how they are drawn.

:mod:`~drstool.figures.spec` says what a figure shows, :mod:`~drstool.figures.rows` chooses images,
:mod:`~drstool.figures.columns` reads what a cell shows, :mod:`~drstool.figures.cells` colours it,
:mod:`~drstool.figures.layout` places it, and :mod:`~drstool.figures.render` draws and writes all of it. Only the last
one needs matplotlib.
"""
