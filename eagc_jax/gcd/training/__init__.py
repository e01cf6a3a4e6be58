"""Training on several objectives: settings, one step, the loop, several processes."""
