"""What becomes of one packet of a pod, by the rules that are in the kernel: nobody's promises, and no guesses."""
