"""Published measurements turned into scenarios, and the errors of predicting them."""
