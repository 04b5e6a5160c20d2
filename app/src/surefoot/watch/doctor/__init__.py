"""What is wrong with this device, and what to do about it: facts are read, then judged by pure rules."""
