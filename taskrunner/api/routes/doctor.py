"""`/doctor`: what is wrong with the database and the processes.

FastAPI reads the annotations at run time: no deferred ones here.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from taskrunner.api.consultation import Consultation
from taskrunner.api.routes.describe import refusals
from taskrunner.doctor import Report

router = APIRouter(prefix="/doctor", tags=["monitor"], responses=refusals(422))

Fresh = Annotated[bool, Query(description="Look now: else the answer may be ten seconds old.")]


@router.get("", operation_id="doctor")
async def doctor(request: Request, fresh: Fresh = False) -> Report:
    """Say what is wrong, what comes of it, and which command mends it; 200 whatever is found.

    Also while the database is away, which is a finding.
    """
    consultation: Consultation = request.app.state.doctor
    return await consultation.report(fresh=fresh)
