"""What a run leaves behind: settings, steps and epochs; reading and comparing them."""
