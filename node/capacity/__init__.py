"""`lungnode capacity`: how many workers a day's studies need, from what studies cost."""
