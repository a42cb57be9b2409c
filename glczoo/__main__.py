"""`python -m glczoo VERB` is `glczoo VERB`."""

from glczoo.cli import main

main()
