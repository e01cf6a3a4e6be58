"""What is done, and how: plain, frozen values that command, call and file share."""
