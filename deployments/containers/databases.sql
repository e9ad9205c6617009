-- MLflow keeps its tables apart from Prefect's: both call the table of their migrations by the same name.
CREATE DATABASE mlflow;
