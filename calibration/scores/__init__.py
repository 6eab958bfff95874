"""How good answers are: AP, PCK, OKS, and the search for float parts."""
