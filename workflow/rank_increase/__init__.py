"""The library of the workflow. Imports point one way: from `study` and `pages` down to `toy`, `data` and `networks`."""
