"""How good an assignment is: accuracy, where the true classes are known."""
