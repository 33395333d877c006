"""Scores that the papers print, for the report's "published" column. They were measured on other data."""

from __future__ import annotations

JCS_PATIENTS = (
    "JCS Table IV, patients, count threshold: sensitivity / specificity %",
    ("threshold", "sensitivity", "specificity"),
    (
        ("15", "96.0", "91.5"),
        ("20", "95.0", "92.0"),
        ("25", "95.0", "93.0"),
        ("30", "94.5", "93.5"),
    ),
)

JCS_ABLATION = (
    "JCS Tables V and VI, segmentation %",
    ("system", "Dice", "IoU", "E-measure"),
    (
        ("no EFM, no AFF", "71.0", "57.7", "88.0"),
        ("EFM", "74.3", "61.4", "88.9"),
        ("AFF", "75.9", "63.4", "90.9"),
        ("EFM + AFF", "77.5", "65.4", "92.0"),
        ("with classifier features", "78.5", "66.4", "92.7"),
    ),
)

JCS_OTHERS = (
    "JCS Table VII, segmentation %",
    ("system", "Dice", "IoU", "E-measure"),
    (
        ("U-Net", "65.1", "54.1", "79.7"),
        ("DSS", "65.7", "51.7", "79.9"),
        ("EGNet", "69.3", "55.4", "83.6"),
        ("PoolNet", "69.7", "55.9", "83.9"),
        ("JCS", "78.5", "66.4", "92.7"),
    ),
)

M3_PATIENTS = (
    "M3Lung-Sys Table II, patients %: sensitivity / specificity / AUC per class",
    ("system", "Healthy", "COVID-19", "H1N1", "CAP", "Acc [95 % CI]", "FPE", "FNE", "FDPE"),
    (
        ("COVNet", "51.92/96.88/96.30", "95.88/80.74/95.15", "58.33/94.86/84.82", "60.71/85.83/77.89",
         "68.84 [63.70-74.32]", "48.08", "3.13", "18.97"),
        ("Med3D-50", "69.70/90.59/91.44", "75.00/88.83/88.22", "93.02/97.24/97.70", "79.39/90.96/92.09",
         "76.37 [71.57-80.83]", "30.30", "9.41", "10.45"),
        ("Med3D-18", "93.26/100/99.99", "95.05/99.49/99.81", "92.86/100/100", "98.16/93.67/99.41",
         "94.52 [91.78-96.92]", "6.74", "0.00", "4.62"),
        ("DeCovNet", "99.03/100/100", "95.96/96.04/98.87", "100/98.03/99.85", "75.51/97.93/96.51",
         "93.83 [91.10-96.58]", "0.96", "0.00", "8.91"),
        ("M3Lung-Sys", "97.17/95.86/98.88", "98.99/97.49/99.93", "100/99.61/100", "81.19/100/97.71",
         "95.21 [92.81-97.26]", "2.83", "4.15", "1.57"),
    ),
)  # fmt: skip

M3_ABLATION = (
    "M3Lung-Sys Tables IV and V, patients %",
    ("system", "Acc [95 % CI]", "FPE", "FNE", "FDPE"),
    (
        ("non-parametric", "94.18 [91.44-97.58]", "10.66", "0.0", "3.11"),
        ("max pooling", "92.12 [89.04-95.21]", "2.91", "6.15", "4.12"),
        ("single scale + aggregation", "93.15 [90.06-95.56]", "4.95", "5.32", "2.59"),
        ("multi-scale + aggregation", "94.18 [91.44-96.58]", "2.89", "5.22", "2.04"),
        ("full", "95.21 [92.81-97.26]", "2.83", "4.15", "1.57"),
        ("slice net: ResNet-50", "89.04 [85.27-92.47]", "22.46", "1.04", "3.65"),
        ("slice net: + multi-task", "92.12 [89.04-94.86]", "13.40", "0.00", "4.74"),
        ("slice net: + attention", "93.49 [90.41-95.89]", "11.88", "0.00", "3.57"),
        ("slice net: + coordinates", "94.18 [91.44-97.58]", "10.66", "0.00", "3.11"),
    ),
)

M3_SLICES = (
    "M3Lung-Sys, slices, AUC %",
    ("Healthy", "COVID-19", "H1N1", "CAP"),
    (("98.40", "98.99", "100.00", "94.58"),),
)

Table = tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]

TABLES: dict[tuple[str, str], tuple[Table, ...]] = {
    ("jcs", "patients"): (JCS_PATIENTS,),
    ("jcs", "lesions"): (JCS_ABLATION, JCS_OTHERS),
    ("m3lung", "patients"): (M3_PATIENTS, M3_ABLATION),
    ("m3lung", "slices"): (M3_SLICES,),
}
"""Which tables stand beside which measurement."""
