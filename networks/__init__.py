"""The papers' networks as torch modules.

JCS (Wu et al., IEEE TIP 2021) and M3Lung-Sys (Qian et al., IEEE JBHI 2020).
"""
