"""Coded concepts of the results, in one place.

Standard codes where one says what is meant (DICOM, SNOMED CT, UCUM); `99LUNGNODE` for the rest (PS3.3 8.2: private
designators start with 99). Nothing is coded as a diagnosis: a class is coded as the disease that the CT pattern is
*most compatible with*, under that concept name.
"""

from __future__ import annotations

from highdicom.sr import CodedConcept

from engine.findings import PneumoniaClass

PRIVATE_SCHEME = "99LUNGNODE"


def _private(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, PRIVATE_SCHEME, meaning)


def _snomed(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, "SCT", meaning)


def _dicom(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, "DCM", meaning)


# Anatomy and morphology
LUNG = _snomed("39607008", "Lung")
LESION = _snomed("52988006", "Lesion")
ABNORMAL_STRUCTURE = _snomed("49755003", "Morphologically Abnormal Structure")
ANATOMICAL_STRUCTURE = _snomed("123037004", "Anatomical Structure")

RIGHT = _snomed("24028007", "Right")
LEFT = _snomed("7771000", "Left")
SUPERIOR = _snomed("264217000", "Superior")
INFERIOR = _snomed("261089000", "Inferior")

# What was done, by whom
CT_OF_CHEST = _snomed("169069000", "CT of chest")
ARTIFICIAL_INTELLIGENCE = _dicom("123110", "Artificial Intelligence")
IMAGING_MEASUREMENT_REPORT = _dicom("126000", "Imaging Measurement Report")
OF_INTEREST = _dicom("113000", "Of Interest")

# Findings and evaluations
IMPRESSION = _dicom("121073", "Impression")
COMMENT = _dicom("121106", "Comment")
PROBABILITY = _dicom("122157", "Probability")
VOLUME = _snomed("118565006", "Volume")
MEAN = _snomed("373098007", "Mean")
ATTENUATION = _dicom("112031", "Attenuation Coefficient")
COMPATIBLE_PATTERN = _private("PATTERN", "CT pattern most compatible with")
NOT_COVID19 = _private("NOT-COVID19", "Not COVID-19")
VERIFICATION = _private("VERIFICATION", "Verification status")
NOT_VERIFIED = _private("NOT-VERIFIED", "AI generated, not verified by a physician")
AGREEMENT = _private("AGREEMENT", "Agreement of the two systems")
CONCORDANT = _private("CONCORDANT", "The two systems agree")
DISCORDANT = _private("DISCORDANT", "The two systems disagree")
POSITIVE_SLICES = _private("POSITIVE-SLICES", "Slices positive for COVID-19")
POSITIVE_SLICE_LIMIT = _private("SLICE-LIMIT", "Limit of positive slices")
OWN_POSITIVE_SLICES = _private("OWN-SLICES", "Slices in which the algorithm finds it")
LUNG_SHARE = _private("LUNG-SHARE", "Share of the lungs' volume")
RESULT = _private("RESULT", "Result of the algorithm")
PRESENT = _snomed("52101004", "Present")
ABSENT = _snomed("272519000", "Absent")
LUNG_INVOLVEMENT = _private("INVOLVEMENT", "Lung involvement")
LESION_COUNT = _private("LESION-COUNT", "Number of lesions")
LESION_VOLUME = _private("LESION-VOLUME", "Volume of all lesions")
PRIOR_REPORT = _dicom("122075", "Prior report for current patient")
STUDY_DATE = _dicom("111060", "Study Date")
STUDY_INSTANCE_UID = _dicom("110180", "Study Instance UID")
COMPARISON = _dicom("122140", "Comparison with Prior Study Done")
DAYS_SINCE_PRIOR = _private("DAYS", "Days since the prior study")
PRIOR_LESION_VOLUME = _private("PRIOR-LESIONS", "Volume of all lesions in the prior study")
LESION_VOLUME_CHANGE = _private("LESIONS-CHANGE", "Change of the volume of all lesions")
PRIOR_INVOLVEMENT = _private("PRIOR-INVOLVED", "Lung involvement in the prior study")
INVOLVEMENT_CHANGE = _private("INVOLVED-CHANGE", "Change of lung involvement, in percentage points")
PRIOR_LUNG_VOLUME = _private("PRIOR-LUNGS", "Lung volume in the prior study")
PRIOR_LESION_COUNT = _private("PRIOR-COUNT", "Number of lesions in the prior study")
PRIOR_PATTERN_JCS = _private("PRIOR-JCS", "CT pattern most compatible with, prior study, JCS")
PRIOR_PATTERN_M3LUNG = _private("PRIOR-M3LUNG", "CT pattern most compatible with, prior study, M3Lung-Sys")
ACTIVATION = _private("ACTIVATION", "Class activation map value")
LOCATION = _private("LOCATION", "Lesion location map value")

CLASSES = {
    PneumoniaClass.HEALTHY: _private("NO-PNEUMONIA", "No pneumonia"),
    PneumoniaClass.COVID19: _snomed("840539006", "COVID-19"),
    PneumoniaClass.H1N1: _snomed("442696006", "Influenza caused by Influenza A virus subtype H1N1"),
    PneumoniaClass.CAP: _snomed("385093006", "Community acquired pneumonia"),
}
"""What M3Lung-Sys's classes are called in the report."""

# Units
MILLILITER = CodedConcept("mL", "UCUM", "mL")
DAY = CodedConcept("d", "UCUM", "day")
PERCENT = CodedConcept("%", "UCUM", "%")
NO_UNITS = CodedConcept("1", "UCUM", "no units")
HOUNSFIELD = CodedConcept("[hnsf'U]", "UCUM", "Hounsfield unit")
