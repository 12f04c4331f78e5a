"""Data sets and the crops that training draws from them."""
