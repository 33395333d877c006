"""The pool that the compact models learn from: real slices, figures and simulated cases on one grid."""
