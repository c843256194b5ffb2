"""How a nightly recipe of the tests ends, once it has a classifier: judged beside the champion, let through, packaged and promoted."""

END = """  - calibrate: {classifier: train.classifier}
  - as: evaluate.champion
    evaluate_bundle: {test: "${world}/test", bundle: "${champion}"}
  - evaluate: {test: "${world}/test", classifier: train.classifier, against: evaluate.champion}
  - gate:
      old: evaluate.champion
      old_classifier: evaluate.champion.classifier
      new: evaluate
      new_classifier: train.classifier
      max_drop: 1
      max_slice_drop: 1
      max_ece: ${max_ece}
  - package: {classifier: train.classifier, detector: ""}
  - promote: {champion: "${champion}"}
"""
