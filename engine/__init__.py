"""From a DICOM series to Findings: loading, screening, model packages and their runners."""
